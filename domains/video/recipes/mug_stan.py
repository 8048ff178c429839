"""Mug-STAN on captioned clips: STAN's frames and the words of a sentence weight each other.

"Mug-STAN: Adapting Image-Language Pretrained Models for General Video Understanding", 2023, arXiv 2311.15075. As
released for MSR-VTT (`--partition 9k`): the similarity of words and frames without parameters, cross-entropy both ways
summed, and else what `video/stan` says of the branch and its training. Clips of a test have 12 frames, as those of the
training (released: 32).
"""

domain = "video"
task = "retrieval"
backbone = "openai-vit-b-32"
data = {"frames": 12, "sampling": "uniform-random", "train_flip": False, "train_colours": "none"}
adapter = {
    "name": "mug",
    "mode": "simple",
    "loss": "clip",
    "tune_text": False,
    "train_towers": True,
    "lr": 2e-6,
    "coef_lr": 1.0,
    "weight_decay": 0.05,
    "epochs": 10,
    "batch_size": 128,
    "towers": "stan",
    "tower_options": {
        "depth": 4,
        "warmup": 1_000_000,  # steps: more than there are
        "crop_scale": [0.08, 1.0],
        "clip_grad": 5.0,
        "training": {"eps": 1e-8},
    },
}
