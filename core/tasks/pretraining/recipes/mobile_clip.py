"""A small model learns the mean of several teachers' softmaxes, of captions and synthetic captions. `--teacher` twice.

"MobileCLIP: Fast Image-Text Models through Multi-Modal Reinforced Training", 2023, arXiv 2311.17049. The pairs have a
column `synthetic`, of one text or several (`--set loss.mobile-clip.synthetic=0` does without). As released: no loss of
CLIP's own, scales of 100 (one per teacher: `--set loss.mobile-clip.scales=60,90`), 1e-3 after 1,000 of 30,000 steps,
gradients of a norm of 1 at most. Released too: batches of 8192, and RandAugment, which is left out.
"""

task = "pretraining"
loss = ["mobile-clip"]
lr = 1e-3
weight_decay = 0.2
betas = [0.9, 0.95]
warmup = 0.033
clip_grad = 1.0
