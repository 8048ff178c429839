"""Open-VCLIP, trained on Kinetics for actions to come: attention to neighbouring frames, weights kept near CLIP's.

"Open-VCLIP: Transforming CLIP to an Open-vocabulary Video Model via Interpolated Weight Optimization", 2023, arXiv
2302.00624. As released: stretches of 8 frames, 16 apart at 30 per second, PySlowFast's scale jitter and flips, colours
as they are, 3 views whose scores are averaged, 22 epochs of AdamW at 3.33e-6 in batches of 64, gradients of norm 1 at
most, no weights of classes. The share of CLIP in the weights is chosen on val (released: `--set
adapter.patching_ratio=0.5`), and the domain's prompts stand for the 28 released ones.
"""

domain = "video"
task = "action-recognition"
backbone = "openai-vit-b-16"
shots = "all"
batch_size = 64
data = {
    "frames": 8,
    "sampling": "slowfast-random",
    "interval": 16,
    "clips": 3,
    "average_views": "scores",
    "train_crop": "scale-jitter",
    "train_colours": "none",
}
adapter = {
    "name": "open-vclip",
    "lr": 3.33e-6,
    "weight_decay": 0.01,
    "epochs": 22,
    "warmup": 2 / 22,
    "clip_grad": 1.0,
    "sample_range": [0.0, 0.6],
    "loss_ratio": 0.5,
    "average_from": 2,
    "class_weight": "none",
    "training": {"betas": [0.9, 0.999], "eps": 1e-8},
}
