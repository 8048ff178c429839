"""RDE, robust to captions of somebody else: clean pairs are known by their losses. `--backbone openai-vit-b-16`.

"Noisy-Correspondence Learning for Text-to-Image Person Re-identification", 2024, arXiv 2308.09911. As released: IRRA's
training, the embedding of selected tokens at a rate of 1e-3; without its changes of captions, and with the epoch chosen
on val (released: on test).
"""

_base_ = ["./irra.py"]

adapter = {"loss": "rde", "training": {"head_rate": 100.0}}
