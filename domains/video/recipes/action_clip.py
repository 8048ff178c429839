"""ActionCLIP's temporal transformer on stored frames, with its loss and the rate of its head.

"ActionCLIP: A New Paradigm for Video Action Recognition", 2021, arXiv 2109.08472, its Kinetics-400. As released: 8
frames of equal segments, 6 blocks, KL divergence from who shares a class, AdamW at 5e-5 with weight decay 0.2, 50
epochs in batches of 128, no weights of classes. The towers stay frozen (released: trained at 5e-6), so that nothing is
augmented (released: RandAugment, MultiScaleCrop, flips, colours and grey), and the domain's prompts are averaged
(released: one of 16 is drawn).
"""

domain = "video"
task = "action-recognition"
backbone = "openai-vit-b-32"
shots = "all"
data = {"frames": 8, "sampling": "segment-random", "centre_share": 0.875}
adapter = {
    "name": "action-clip",
    "sim_header": "Transf",
    "layers": 6,
    "lr": 5e-5,
    "weight_decay": 0.2,
    "epochs": 50,
    "batch_size": 128,
    "class_weight": "none",
}
