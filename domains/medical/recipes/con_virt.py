"""Both towers learn images and sentences of their reports from each other, as ConVIRT does.

"Contrastive Learning of Medical Visual Representations from Paired Images and Text", 2020, arXiv 2010.00747. As
published: temperature 0.1, images that pick their text count 0.75, one sentence is drawn from each report, batches of
32, Adam at 1e-4 with weight decay 1e-6. Ours: 50 epochs under a cosine (the paper halves the rate where val stands
still), and the domain's augmentation, which does not flip.
"""

task = "pretraining"
domain = "medical"
loss = ["con-virt"]
captions = "sentences"
epochs = 50
batch_size = 32
optimizer = "adam"
betas = [0.9, 0.999]
lr = 1e-4
weight_decay = 1e-6
