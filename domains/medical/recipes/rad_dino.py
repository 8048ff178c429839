"""RAD-DINO's way: a DINOv2 is trained on with chest radiographs alone, no text and no label; `pretrain --data FOLDER`.

"RAD-DINO: Exploring Scalable Medical Image Encoders Beyond Text Supervision", 2024, arXiv 2401.10815. Public are the
weights (`--backbone rad-dino` starts from them) and what their card says: it began with DINOv2 ViT-B/14, and saw chest
radiographs alone, in 518 x 518 pixels (`--set image_size=518`) and batches of 2,560. The code of the training is not;
the file of its augmentations, which lies beside the weights, was not at hand. As radiographs are grey and findings are
small, crops here are larger than DINOv2's, without shifts of hue and saturation, without solarisation and with little
blur. These numbers are ours. So is that nothing is flipped: left and right tell organs apart.

The other settings are for a few thousand images on one GPU. DINOv2's own (65,536 prototypes or more, momentum from
0.992, lr 0.004 x sqrt(batch / 1024), 500 epochs of 1,250 steps) then stay at the loss of guessing. DINOv2's are betas,
layer decay, clipping and weight decay.
"""

domain = "medical"
task = "pretraining"
data = {"modality": "radiology"}
backbone = "dinov2"
loss = ["dino-v2"]
loss_options = {
    "dino-v2": {
        "balance": "sinkhorn",
        "out_dim": 2048,
        "momentum": 0.99,
        "global_scale": [0.5, 1.0],
        "local_scale": [0.1, 0.5],
        "jitter": [0.4, 0.4, 0.0, 0.0],
        "grey": 0.0,
        "blur": [0.2, 0.0, 0.2],
        "solarize": 0.0,
        "flip": 0.0,
    }
}
epochs = 30
batch_size = 32
lr = 5e-5
end_lr = 1e-6
head_rate = 10.0
betas = [0.9, 0.999]
eps = 1e-8
weight_decay = 0.04
end_weight_decay = 0.4
layer_decay = 0.9
clip_grad = 3.0
