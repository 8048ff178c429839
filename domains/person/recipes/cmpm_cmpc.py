"""CMPM and CMPC: projections matched over the batch and classified by person. `--backbone openai-rn50`.

"Deep Cross-Modal Projection Learning for Image-Text Matching", ECCV 2018; the settings are those with which PLIP (2023,
arXiv 2305.08386) fine-tunes, but with AdamW in place of Adan and a cosine in place of the step at epoch 20.
"""

domain = "person"
task = "person-search"
image_size = "256x128"
adapter = {
    "name": "full",
    "loss": "cmpm-cmpc",
    "lr": 1e-4,
    "weight_decay": 0.02,
    "epochs": 30,
    "warmup": 5.0,
    "batch_size": 128,
    "select": "best_val",
    "training": {"schedule": "epoch-cosine", "warmup_lr": 1e-5, "drop_last": False},
}
