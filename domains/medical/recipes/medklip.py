"""Queries of findings look at radiographs, say what is there and name the position, as in MedKLIP: adapter `medklip`.

"MedKLIP: Medical Knowledge Enhanced Language-Image Pre-Training in Radiology", 2023, arXiv 2301.02228. As released: the
text tower frozen, four decoder layers of width 256, AdamW at 1e-4 with weight decay 0.02, 100 epochs under a cosine
after a rise of five, batches of 48. Findings and positions are those of a table of `vladapt curate findings`
(`--set data.findings=FILE`), described by our sentences, or by yours (`--set loss.medklip.findings=FILE.json`).
Ours: the domain's augmentation (released: crops down to a fifth of the image, flips, two steps of RandAugment).
"""

task = "pretraining"
domain = "medical"
loss = ["medklip"]
lock = ["text"]
epochs = 100
batch_size = 48
lr = 1e-4
betas = [0.9, 0.999]
weight_decay = 0.02
warmup = 0.05
