"""OWL-ViT fine-tuned as published (arXiv 2205.06230): 768 pixels, mosaics, both towers. For one or more large GPUs.

It wants a vision transformer, `--backbone open_clip:ViT-B-16@weights.safetensors` or, to start from a detector,
`--backbone hf:<folder of OWL-ViT>`. The published batch is 256 images, which the rate is for; its
gradients are clipped image by image, here those of a step together.
"""

vladapt = dict(domain="open-vocab", task="detection")
default_scope = "mmdet"

data = "sample"
backbone = "embedded"
image_size = 768
rate, text_rate = 5e-5, 2e-6
steps, warm_up = 16_000, 1000

model = dict(type="vladapt.OWLViT", backbone=backbone, classes=["object"])

load = [dict(type="vladapt.LoadItemImage")]
fit = dict(type="mmdet.Resize", scale=(image_size, image_size), keep_ratio=True)
pack = dict(
    type="mmdet.PackDetInputs",
    meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "facts", "instances"),
)
train_pipeline = [dict(type="vladapt.OWLMosaic", size=image_size), pack]
tile_pipeline = [
    *load,
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.RandomFlip", prob=0.5),
    dict(type="vladapt.OWLRandomCrop"),
]
test_pipeline = [*load, fit, pack]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmdet.MultiImageMixDataset",
        dataset=dict(type="vladapt.DetectionDataset", path=data, split="train", pipeline=tile_pipeline),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.DetectionDataset", path=data, split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=steps)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=rate, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys=dict(text=dict(lr_mult=text_rate / rate))),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=warm_up),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=warm_up, end=steps, T_max=steps - warm_up),
]
