"""An image tower tells attacked images of labelled classes apart by the classes' texts, as in TeCoA.

"Understanding Zero-Shot Adversarial Robustness for Large-Scale Models", 2022, arXiv 2212.07016, in the settings of
"Robust CLIP" (2024, arXiv 2402.12336). `--data` is a folder of class folders, or labelled images that `--domain` reads.
Attacks of 4/255 in ten steps, AdamW at 1e-5 with weight decay 1e-4, a rise of 1,400 in 20,000 steps of 128, which are
two epochs of ImageNet. With fewer images give more epochs. The first paper: `--set loss.tecoa.eps=1
--set loss.tecoa.steps=2`, SGD at 1e-7.
"""

task = "pretraining"
loss = ["tecoa"]
epochs = 2
batch_size = 128
betas = [0.9, 0.999]
eps = 1e-8
lr = 1e-5
weight_decay = 1e-4
warmup = 0.07
