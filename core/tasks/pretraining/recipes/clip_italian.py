"""Joined towers of which first the projections learn, and then all that there is, as CLIP-Italian does.

"Contrastive Language-Image Pre-training for the Italian Language", 2021, arXiv 2108.08688. Two projections without a
bias stand on what the towers give (`vladapt join --untrained projections`). While the towers are frozen these alone
learn, to `unlock_after`; then both towers do. As released: a constant scale of 20, gradients clipped by unit (AGC,
0.01), AdaBelief at 1e-5 without weight decay, 10 % of the steps a rise and then a cosine, batches of 128, 15 epochs.
Ours: 5 epochs of the first stage (released: until it converges), in which frozen towers have no dropout; and an image
tower's own projection, if it has one, stays below the new one.
"""

task = "pretraining"
loss = ["clip"]
lock = ["towers"]
unlock_after = 5
epochs = 20
batch_size = 128
logit_scale = 20.0
optimizer = "adabelief"
betas = [0.9, 0.999]
eps = 1e-16
clip_units = 0.01
lr = 1e-5
weight_decay = 0.0
warmup = 0.1
