"""A vision transformer and a decoder write captions through a codebook of image tokens, as in TL;DR's first step.

"Too Large; Data Reduction for Vision-Language Pre-Training", 2023, arXiv 2305.20087. As released: a ViT-B/16, 20
epochs, AdamW at 3e-4, which falls to .9 of itself with each epoch, a weight decay of .05. `embed --backbone
projected:MODEL` then tells which codes each image has.
"""

task = "pretraining"
loss = ["codebook"]
epochs = 20
lr = 3e-4
weight_decay = 0.05
warmup = 0
schedule = "epoch-steps"
milestones = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
step_factor = 0.9
