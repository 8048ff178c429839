"""RDE, robust to captions of somebody else: clean pairs are told by their losses. `--backbone openai-vit-b-16`.

"Noisy-Correspondence Learning for Text-to-Image Person Re-identification", 2024, arXiv 2308.09911. As released: IRRA's
training, the embedding of selected tokens at a rate of 1e-3; but for its changes of captions, and the epoch, chosen on
val (released: on test).
"""

domain = "person"
task = "person-search"
image_size = "384x128"
adapter = {
    "name": "full",
    "loss": "rde",
    "lr": 1e-5,
    "weight_decay": 4e-5,
    "epochs": 60,
    "warmup": 5.0,
    "batch_size": 64,
    "select": "best_val",
    "training": {
        "optimizer": "adam",
        "eps": 1e-3,
        "betas": [0.9, 0.999],
        "decayed": "weights",
        "schedule": "epoch-cosine",
        "warmup_lr": 1e-6,
        "head_rate": 100.0,
        "bias_rate": 2.0,
        "drop_last": False,
    },
}
