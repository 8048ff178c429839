"""PLIP's three tasks, after its abstract: identities, hidden words from the image, colours from the caption.

"PLIP: Language-Image Pre-training for Person Representation Learning", 2023, arXiv 2305.08386. No code of its training
is public: losses and settings are ours. `--backbone openai-rn50`, or `embedded`.
"""

domain = "person"
task = "person-search"
image_size = "256x128"
adapter = {
    "name": "full",
    "loss": "plip",
    "lr": 1e-5,
    "weight_decay": 0.1,
    "epochs": 20,
    "batch_size": 64,
    "select": "best_val",
    "training": {"head_rate": 10.0},
}
