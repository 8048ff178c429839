"""Findings and positions are two streams of queries that have to agree, as in MeDSLIP: adapter `medslip`.

"MeDSLIP: Medical Dual-Stream Language-Image Pre-training with Pathology-Anatomy Semantic Alignment", 2024, arXiv
2403.10635. Settings of MedKLIP, on whose code it stands: the text tower frozen, four decoder layers of width 256, AdamW
at 1e-4 with weight decay 0.02, 100 epochs under a cosine after a rise of five, batches of 48. Findings and positions
are those of a table of `vladapt curate findings` (`--set data.findings=FILE`), described by our sentences, or by yours
(`--set loss.medslip.findings=FILE.json`). Ours: the domain's augmentation (released: crops down to a fifth of the
image, flips, two steps of RandAugment).
"""

task = "pretraining"
domain = "medical"
loss = ["medslip"]
lock = ["text"]
epochs = 100
batch_size = 48
lr = 1e-4
betas = [0.9, 0.999]
weight_decay = 0.02
warmup = 0.05
