"""What CLIP4Clip's forms have in common."""

domain = "video"
task = "retrieval"
backbone = "openai-vit-b-32"
data = {"frames": 12, "sampling": "fps", "train_crop": "centre", "train_flip": False, "train_colours": "none"}
adapter = {
    "loss": "clip",
    "train_towers": True,
    "lr": 1e-4,
    "coef_lr": 1e-3,
    "weight_decay": 0.2,
    "epochs": 5,
    "batch_size": 128,
}
