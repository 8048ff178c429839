"""Each pair is learned with a hard negative caption and an image of that caption, as TripletCLIP is.

"TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language Negatives", 2024, arXiv
2411.02545. Take pairs with a column `negative_image` (released: made by a text-to-image model) and one `negative` of
its captions. As released: from scratch (`--backbone open_clip:ViT-B-32@random`), 10 epochs at 5e-4, batches of 1024.
Ours: the warm-up, a tenth of the steps.
"""

task = "pretraining"
loss = ["triplet-clip"]
epochs = 10
batch_size = 1024
lr = 5e-4
flip = False
