"""TBPS-CLIP, a strong and simple baseline: soft targets, consistency, SimCLR. `--backbone openai-vit-b-16`.

"An Empirical Study of CLIP for Text-based Person Search", 2023, arXiv 2308.10045. As released: 5 epochs of AdamW in
batches of 320, squares of 224, two of six changes of a picture, words left out; without its translations into another
language and back, which `--set paraphrases=FILE.json` may supply, and with the epoch chosen on val (released: on test).
"""

domain = "person"
task = "person-search"
image_size = 224
views = "tbps-clip"
deletion = 0.05
adapter = {
    "name": "full",
    "loss": "tbps-clip",
    "lr": 1e-4,
    "weight_decay": 0.02,
    "epochs": 5,
    "warmup": 0.2,
    "batch_size": 320,
    "select": "best_val",
    "training": {"betas": [0.9, 0.98], "eps": 1e-8, "end_lr": 5e-6},
}
