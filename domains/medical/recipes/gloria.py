"""Words of reports find the patches that they describe, as in GLoRIA: for retrieval, zero-shot and maps of phrases.

"GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient Medical Image Recognition",
2021, doi 10.1109/ICCV48922.2021.00391. As released: sentences drawn from reports, whose start and end are no words,
batches of 48, Adam at 5e-5 with weight decay 1e-6, gradients of norm 0.25 at most, 50 epochs. Ours: a cosine (released:
the rate falls where val stands still), and the domain's augmentation, which does not flip.
"""

task = "pretraining"
domain = "medical"
loss = ["gloria"]
loss_options = {"gloria": {"skip_ends": True}}
captions = "sentences"
epochs = 50
batch_size = 48
optimizer = "adam"
betas = [0.9, 0.999]
lr = 5e-5
weight_decay = 1e-6
clip_grad = 0.25
