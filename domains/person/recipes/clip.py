"""CLIP fine-tuned on pictures of people and their captions: the baseline for other recipes.

Whole towers, the contrastive loss with all captions and pictures of a person as positives (`same_label`), AdamW at a
low rate. Settings are ours.
"""

domain = "person"
task = "person-search"
adapter = {
    "name": "full",
    "loss": "clip",
    "loss_options": {"clip": {"same_label": True}},
    "lr": 1e-5,
    "weight_decay": 0.1,
    "epochs": 20,
    "batch_size": 64,
    "select": "best_val",
}
