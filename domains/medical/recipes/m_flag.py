"""Images learn towards a text tower that stays as it is, and spread over all their channels, as in M-FLAG.

"M-FLAG: Medical Vision-Language Pre-training with Frozen Language Models and Latent Space Geometry Optimization", 2023,
arXiv 2307.08347. As released: the text tower frozen, AdamW at 2e-5 with weight decay 0.05, batches of 512, 50 epochs
under a cosine. Images and texts find each other through the projectors that it learns. Ours: the domain's augmentation.
"""

task = "pretraining"
domain = "medical"
loss = ["m-flag"]
lock = ["text"]
epochs = 50
batch_size = 512
lr = 2e-5
betas = [0.9, 0.999]
weight_decay = 0.05
