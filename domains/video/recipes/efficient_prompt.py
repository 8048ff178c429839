"""Efficient-Prompt on stored frames: learned vectors around class names, a transformer over 16 frames.

"Prompting Visual-Language Models for Efficient Video Understanding", 2021, arXiv 2112.04478, its released HMDB51. As
released: 16 + 16 vectors, one block of 8 heads, cosines over 0.07, AdamW at 1e-4 with weight decay 0.01, batches of 64,
1,100 steps there, which are 20 epochs, and predictions averaged over 5 windows. Windows are evenly spread, one frame of
three, and the middle one is learned from (released: drawn, at five speeds); one cosine (released: it restarts).
"""

domain = "video"
task = "action-recognition"
backbone = "openai-vit-b-16"
shots = "all"
data = {"frames": 16, "sampling": "stretches", "interval": 3, "clips": 5, "average_views": "probabilities"}
adapter = {
    "name": "efficient-prompt",
    "prefix": 16,
    "postfix": 16,
    "layers": 1,
    "heads": 8,
    "temperature": 0.07,
    "contrast": 400,
    "lr": 1e-4,
    "weight_decay": 0.01,
    "epochs": 20,
    "batch_size": 64,
    "class_weight": "none",
}
