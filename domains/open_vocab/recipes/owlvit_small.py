"""OWL-ViT (arXiv 2205.06230) on few images, on a CPU or a small GPU: 320 pixels, mosaics of four at most, texts frozen.

It wants a vision transformer, `--backbone open_clip:ViT-B-16@weights.safetensors` or, to start from a detector,
`--backbone hf:<folder of OWL-ViT>`. Not the published setting, which is the recipe owlvit.
"""

vladapt = {"domain": "open-vocab", "task": "detection"}
default_scope = "mmdet"

data = "sample"
backbone = "embedded"
image_size = 320
epochs, warm_up = 50, 50

model = {
    "type": "vladapt.OWLViT",
    "backbone": backbone,
    "classes": ["object"],
    "train_text": False,
    "image_droplayer": 0.0,
}

load = [{"type": "vladapt.LoadItemImage"}]
fit = {"type": "mmdet.Resize", "scale": (image_size, image_size), "keep_ratio": True}
pack = {
    "type": "mmdet.PackDetInputs",
    "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "facts", "instances"),
}
train_pipeline = [{"type": "vladapt.OWLMosaic", "size": image_size, "grids": (1, 2), "probs": (0.7, 0.3)}, pack]
tile_pipeline = [
    *load,
    {"type": "mmdet.LoadAnnotations", "with_bbox": True},
    {"type": "mmdet.RandomFlip", "prob": 0.5},
    {"type": "vladapt.OWLRandomCrop", "area_range": (0.6, 1.0)},
]
test_pipeline = [*load, fit, pack]

train_dataloader = {
    "batch_size": 8,
    "num_workers": 2,
    "sampler": {"type": "DefaultSampler", "shuffle": True},
    "dataset": {
        "type": "mmdet.MultiImageMixDataset",
        "dataset": {"type": "vladapt.DetectionDataset", "path": data, "split": "train", "pipeline": tile_pipeline},
        "pipeline": train_pipeline,
    },
}
test_dataloader = {
    "batch_size": 1,
    "num_workers": 2,
    "sampler": {"type": "DefaultSampler", "shuffle": False},
    "dataset": {
        "type": "vladapt.DetectionDataset",
        "path": data,
        "split": "test",
        "test_mode": True,
        "pipeline": test_pipeline,
    },
}
test_evaluator = {"type": "vladapt.OpenVocabDetectionMetric"}
test_cfg = {"type": "TestLoop"}

train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": epochs, "val_interval": epochs}

optim_wrapper = {
    "type": "OptimWrapper",
    "optimizer": {"type": "AdamW", "lr": 1e-4, "weight_decay": 1e-4},
    "clip_grad": {"max_norm": 1.0},
    "paramwise_cfg": {"custom_keys": {"tower": {"lr_mult": 0.1}}},
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
