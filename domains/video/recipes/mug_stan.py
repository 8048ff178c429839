"""Mug-STAN's branch beside the image tower on captioned clips: along time, then within 12 frames.

"Mug-STAN: Adapting Image-Language Pretrained Models for General Video Understanding", 2023, arXiv 2311.15075, and STAN,
2023, arXiv 2301.11116. As released for MSR-VTT (`--partition 9k`): one frame drawn of each of 12 steps, crops of 0.08
of the area or more and no other augmentation, AdamW at 2e-6 and ten times that for the branch, weight decay 0.02,
gradients of norm 5 at most, batches of 128. Clips and sentences are compared by the mean of the frames as STAN does it,
without Mug's mutual guidance (`--adapter mug` has that, without the branch). 10 epochs as STAN's (released file: up to
100), a cosine after the rise, and 12 frames in tests too (released: 32).
"""

domain = "video"
task = "retrieval"
backbone = "openai-vit-b-32"
batch_size = 128
data = {"frames": 12, "sampling": "uniform-random", "train_flip": False, "train_colours": "none"}
adapter = {
    "name": "stan",
    "loss": "clip",
    "lr": 2e-6,
    "weight_decay": 0.02,
    "epochs": 10,
    "crop_scale": [0.08, 1.0],
    "clip_grad": 5.0,
    "depth": 4,
    "training": {"eps": 1e-8},
}
