"""An image tower keeps its embeddings under attack, as in FARE: images alone, no texts, no labels.

"Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large Vision-Language Models", 2024,
arXiv 2402.12336. `--data` is a folder of images. As released: attacks of 4/255 in ten steps (`--set loss.fare.eps=2`
for the smaller), AdamW at 1e-5 with weight decay 1e-4, a rise of 1,400 in 20,000 steps of 128, which are two epochs of
ImageNet. With fewer images give more epochs.
"""

task = "pretraining"
loss = ["fare"]
epochs = 2
batch_size = 128
betas = [0.9, 0.999]
eps = 1e-8
lr = 1e-5
weight_decay = 1e-4
warmup = 0.07
