"""OWL-ViT fine-tuned as published (arXiv 2205.06230): 768 pixels, mosaics, both towers. For one or more large GPUs.

It wants a vision transformer, `--backbone open_clip:ViT-B-16@weights.safetensors` or, to start from a detector,
`--backbone hf:<folder of OWL-ViT>`. The published batch is 256 images, which the rate is for; its
gradients are clipped image by image, here those of a step together.
"""

vladapt = {"domain": "open-vocab", "task": "detection"}
default_scope = "mmdet"

data = "sample"
backbone = "embedded"
image_size = 768
rate, text_rate = 5e-5, 2e-6
steps, warm_up = 16_000, 1000

model = {"type": "vladapt.OWLViT", "backbone": backbone, "classes": ["object"]}

load = [{"type": "vladapt.LoadItemImage"}]
fit = {"type": "mmdet.Resize", "scale": (image_size, image_size), "keep_ratio": True}
pack = {
    "type": "mmdet.PackDetInputs",
    "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "facts", "instances"),
}
train_pipeline = [{"type": "vladapt.OWLMosaic", "size": image_size}, pack]
tile_pipeline = [
    *load,
    {"type": "mmdet.LoadAnnotations", "with_bbox": True},
    {"type": "mmdet.RandomFlip", "prob": 0.5},
    {"type": "vladapt.OWLRandomCrop"},
]
test_pipeline = [*load, fit, pack]

train_dataloader = {
    "batch_size": 8,
    "num_workers": 4,
    "sampler": {"type": "InfiniteSampler", "shuffle": True},
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

train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps, "val_interval": steps}

optim_wrapper = {
    "type": "OptimWrapper",
    "optimizer": {"type": "Adam", "lr": rate, "betas": (0.9, 0.999)},
    "clip_grad": {"max_norm": 1.0},
    "paramwise_cfg": {"custom_keys": {"text": {"lr_mult": text_rate / rate}}},
}
param_scheduler = [
    {"type": "LinearLR", "start_factor": 1e-3, "by_epoch": False, "begin": 0, "end": warm_up},
    {"type": "CosineAnnealingLR", "by_epoch": False, "begin": warm_up, "end": steps, "T_max": steps - warm_up},
]
