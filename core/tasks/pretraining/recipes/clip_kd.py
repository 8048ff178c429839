"""A smaller model learns a teacher's features and similarities, and is contrasted with it. `--teacher SPEC`

"CLIP-KD: An Empirical Study of CLIP Model Distillation", 2023, arXiv 2307.12732: CLIP's loss, the squared distance of
features times 2000, the contrastive relational and the interactive contrastive loss times 1. The optimiser is ours.
"""

task = "pretraining"
loss = ["clip", "distill"]
loss_options = {"distill": {"feature": 2000.0, "similarity": 1.0, "interactive": 1.0}}
