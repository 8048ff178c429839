"""Joined towers of which the image tower is locked: a text tower learns to read out what it sees, as in LiT.

"LiT: Zero-Shot Transfer with Locked-image text Tuning", 2021, arXiv 2111.07991. The image tower gets no gradient and no
dropout; the text tower, its layer into the image tower's space and the temperature learn by the contrastive loss. Take
a `--backbone` of `vladapt join --untrained text-head`, and pairs of images and texts. Ours: AdamW, a rate of 1e-4 and
10 epochs, for a text tower that is trained already (the paper trains one from scratch, with batches of 16,384).
"""

task = "pretraining"
loss = ["clip"]
lock = ["image"]
epochs = 10
batch_size = 256
lr = 1e-4
