"""BoT's baseline of re-identification: BNNeck, hard triplets, smoothed identities, centres.

"Bag of Tricks and A Strong Baseline for Deep Person Re-identification", 2019, arXiv 1903.07071. As released: a
ResNet-50 with torchvision's first weights of ImageNet and a last stride of 1, 256 x 128, 16 people with 4 pictures,
flip, pad 10 and crop, random erasing, Adam at 3.5e-4 with 10 epochs of warm-up, a tenth at epochs 40 and 70, 120
epochs. The epoch is chosen on val (released: the last one), and erased parts have the mean colour (released: `--set
erasing_fill=released`). For CLIP's transformers CLIP-ReID (2022, arXiv 2211.13977) takes a rate of 5e-6: `--backbone
openai-vit-b-16 --set last_stride=2 --set adapter.lr=5e-6`.
"""

domain = "person"
task = "re-identification"
backbone = "timm:resnet50.tv_in1k"
last_stride = 1
image_size = "256x128"
sampler = "random-identity"
pictures = 4
adapter = {
    "name": "full",
    "loss": "bot",
    "lr": 3.5e-4,
    "weight_decay": 5e-4,
    "epochs": 120,
    "warmup": 10.0,
    "batch_size": 64,
    "select": "best_val",
    "training": {
        "optimizer": "adam",
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "decayed": "all",
        "schedule": "epoch-steps",
        "warmup_lr": 3.5e-6,
        "milestones": [40, 70],
        "step_factor": 0.1,
    },
}
