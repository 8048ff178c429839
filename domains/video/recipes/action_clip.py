"""ActionCLIP end to end: both towers and a temporal transformer, by a KL divergence on classes that a batch shares.

"ActionCLIP: A New Paradigm for Video Action Recognition", 2021, arXiv 2109.08472, its Kinetics-400. As released: 8
frames of equal segments, RandAugment, MultiScaleCrop, flips, changed colours and grey, 6 blocks, KL divergence from who
shares a class, AdamW at 5e-6 and ten times that for the head, weight decay 0.2 on all weights, 50 epochs of which 5
rise, in batches of 128, no weights of classes. Texts are the domain's 8 prompts in turn. Released is one of 16, drawn
anew in each step; these are not packaged, and `--set 'templates=["a video of {}", ...]'` takes them. The head alone, on
stored frames, is `--adapter action-clip`.
"""

domain = "video"
task = "action-recognition"
backbone = "openai-vit-b-32"
shots = "all"
batch_size = 128
data = {
    "frames": 8,
    "sampling": "segment-random",
    "centre_share": 0.875,
    "train_crop": "multi-scale",
    "train_colours": "strong",
    "train_grey": 0.2,
    "train_randaugment": True,
}
adapter = {
    "name": "action-clip-towers",
    "sim_header": "Transf",
    "layers": 6,
    "lr": 5e-6,
    "f_ratio": 10.0,
    "weight_decay": 0.2,
    "epochs": 50,
    "warmup": 5 / 50,
    "class_weight": "none",
    "training": {"decayed": "all"},
}
