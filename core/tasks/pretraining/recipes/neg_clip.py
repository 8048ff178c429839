"""A CLIP is tuned on captions beside hard negatives of them, the same words in another order, as NegCLIP is.

"When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It?", 2022, arXiv 2210.01936. The
negatives are a column `negative`, of one text or several; where a row has none, two words of its caption are exchanged
by rules. As released: 5 epochs on COCO from OpenAI's weights, batches of 256, 1e-6 after 50 steps, images not mirrored.
Left out: that each batch also holds near neighbours of its images.
"""

task = "pretraining"
loss = ["neg-clip"]
epochs = 5
batch_size = 256
lr = 1e-6
warmup = 50
flip = False
