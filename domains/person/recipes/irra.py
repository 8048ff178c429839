"""IRRA: people found by a sentence: similarity distributions, identities, hidden words. `--backbone openai-vit-b-16`.

"Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval", 2023, arXiv 2303.12501. As
released: whole towers, Adam, five epochs of warm-up, new layers at five times the rate, biases at twice; here in bf16
with float32 weights (released: fp16 weights), and the epoch is chosen on val (released: on test).
"""

domain = "person"
task = "person-search"
image_size = "384x128"
adapter = {
    "name": "full",
    "loss": "irra",
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
        "head_rate": 5.0,
        "bias_rate": 2.0,
        "drop_last": False,
    },
}
