"""CLIP4Clip's meanP on captioned clips: both towers trained on the mean of 12 frames, one per second.

"CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval", 2021, arXiv 2104.08860. As released for
MSR-VTT (`--partition 9k`), MSVD and LSMDC: cross-entropy both ways in batches of 128, 5 epochs, the towers at a
thousandth of the rate of 1e-4, weight decay 0.2, a rise over a tenth of the steps and a cosine, gradients of norm 1 at
most, no augmentation. DiDeMo's and ActivityNet's paragraphs: `--frames 64`. AdamW stands for BertAdam, and texts keep
the tower's 77 tokens (released: 32, of paragraphs 64).
"""

domain = "video"
task = "retrieval"
backbone = "openai-vit-b-32"
data = {"frames": 12, "sampling": "fps", "train_crop": "centre", "train_flip": False, "train_colours": "none"}
adapter = {
    "name": "mean-pool",
    "loss": "clip",
    "train_towers": True,
    "lr": 1e-4,
    "coef_lr": 1e-3,
    "weight_decay": 0.2,
    "epochs": 5,
    "batch_size": 128,
}
