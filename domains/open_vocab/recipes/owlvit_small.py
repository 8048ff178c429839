"""OWL-ViT (arXiv 2205.06230) on few images, on a CPU or a small GPU: 320 pixels, mosaics of four at most, texts frozen.

It wants a vision transformer, `--backbone open_clip:ViT-B-16@weights.safetensors` or, to start from a detector,
`--backbone hf:<folder of OWL-ViT>`. Not the published setting, which is the recipe owlvit.
"""

_base_ = "./owlvit.py"

image_size = 320
epochs, warm_up = 50, 50

model = {"train_text": False, "image_droplayer": 0.0}

load = [{"type": "vladapt.LoadItemImage"}]
fit = {"type": "mmdet.Resize", "scale": (image_size, image_size), "keep_ratio": True}
pack = {{_base_.pack}}
train_pipeline = [{"type": "vladapt.OWLMosaic", "size": image_size, "grids": (1, 2), "probs": (0.7, 0.3)}, pack]
tile_pipeline = [
    *load,
    {"type": "mmdet.LoadAnnotations", "with_bbox": True},
    {"type": "mmdet.RandomFlip", "prob": 0.5},
    {"type": "vladapt.OWLRandomCrop", "area_range": (0.6, 1.0)},
]
test_pipeline = [*load, fit, pack]

train_dataloader = {
    "num_workers": 2,
    "sampler": {"type": "DefaultSampler"},
    "dataset": {"dataset": {"pipeline": tile_pipeline}, "pipeline": train_pipeline},
}
test_dataloader = {"dataset": {"pipeline": test_pipeline}}

train_cfg = {"_delete_": True, "type": "EpochBasedTrainLoop", "max_epochs": epochs, "val_interval": epochs}

optim_wrapper = {
    "optimizer": {"_delete_": True, "type": "AdamW", "lr": 1e-4, "weight_decay": 1e-4},
    "paramwise_cfg": {"_delete_": True, "custom_keys": {"tower": {"lr_mult": 0.1}}},
}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 1e-2, "by_epoch": False, "begin": 0, "end": warm_up},
    {
        "type": "CosineAnnealingLR",
        "by_epoch": True,
        "begin": 0,
        "end": epochs,
        "T_max": epochs,
        "convert_to_iter_based": True,
    },
]
