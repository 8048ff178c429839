"""CLIP4Clip's meanP on captioned clips: both towers trained on the mean of 12 frames, one per second.

"CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval", 2021, arXiv 2104.08860. As released for
MSR-VTT (`--partition 9k`), MSVD and LSMDC: cross-entropy both ways in batches of 128, 5 epochs, the towers at a
thousandth of the rate of 1e-4, weight decay 0.2, a rise over a tenth of the steps and a cosine, gradients of norm 1 at
most, no augmentation. DiDeMo's and ActivityNet's paragraphs: `--frames 64`. AdamW stands for BertAdam, and texts keep
the tower's 77 tokens (released: 32, of paragraphs 64).
"""

_base_ = ["./parts/clip4clip.py"]

adapter = {"name": "mean-pool", "tune_text": False}
