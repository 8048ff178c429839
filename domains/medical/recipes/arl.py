"""Images and captions are aligned with the entities of a knowledge graph, reason and learn by them: adapter `arl`.

"Align, Reason and Learn: Enhancing Medical Vision-and-Language Pre-training with Knowledge", 2022, arXiv 2209.07118. As
released: six co-attention layers of width 768 in which up to 24 entities take part, hidden words and entities (15 %),
left-out patches (75 %), exchanged images, and entities by graph attention; AdamW at 1e-5, five times that for all that
is added to the towers, betas 0.9 and 0.98, weight decay 0.01, batches of 256, a linear rise over a tenth of the steps.
The files are yours: entities with the words that mention them (`--set loss.arl.entities=FILE`, the same file in
`--set data.entities=FILE` tells by study what was written of an image), triples (`--set loss.arl.triples=FILE`) and
start embeddings (`--set loss.arl.start=FILE.safetensors`), which the paper has of UMLS, scispaCy and TransE. Ours: 15
epochs (released: 100,000 steps), a cosine (released: a straight line to 0), the domain's augmentation, and layers that
start at random (released: METER's), which asks for more data than a few thousand images.
"""

task = "pretraining"
domain = "medical"
loss = ["arl"]
captions = "first"
epochs = 15
batch_size = 256
lr = 1e-5
head_rate = 5.0
betas = [0.9, 0.98]
weight_decay = 0.01
warmup = 0.1
