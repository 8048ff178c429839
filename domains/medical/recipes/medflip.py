"""Images with half of their patches and reports that share findings belong together, in the manner of MedFLIP.

"MedFLIP: Medical Vision-and-Language Self-supervised Fast Pre-Training with Masked Autoencoder", 2024, arXiv
2403.04626. Its code is not public, and of its paper only summaries were at hand: images are masked for speed as in
FLIP, images and reports matched by findings as in MedCLIP, and a function of the largest singular value of their
similarities is added. Which function, its sign and weight and the share of masked patches are ours, as options of loss
`medflip`; no number here is the paper's. All else is the recipe `medical/medclip`. Findings are the labels of the set,
or a table of `vladapt curate findings` (`--set data.findings=FILE`).
"""

task = "pretraining"
domain = "medical"
loss = ["medflip"]
epochs = 10
batch_size = 100
lr = 2e-5
betas = [0.9, 0.999]
weight_decay = 1e-4
warmup = 0.1
