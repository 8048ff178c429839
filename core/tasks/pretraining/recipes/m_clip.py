"""A text tower of another language learns from translated sentences alone, without an image, as in M-CLIP.

"Cross-lingual and Multilingual CLIP", 2022, LREC: the mean of the last hidden states and a linear layer learn the
features that the image tower's own text tower gives the sentence, not normalised, by their squared difference. Take a
`--backbone` of `vladapt join --untrained text-head` (with `--pooling mean` for an encoder that does not say its own),
and as `--data` a table of sentences and their translations. As released: AdamW at 1e-5 without weight decay, 1000 steps
of a rise and then a line to 0, batches of 256. The image tower stays as it is.
"""

task = "pretraining"
loss = ["m-clip"]
epochs = 10
batch_size = 256
betas = [0.9, 0.999]
eps = 1e-8
lr = 1e-5
weight_decay = 0.0
warmup = 1000
schedule = "linear"
