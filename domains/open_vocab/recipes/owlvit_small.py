"""OWL-ViT (arXiv 2205.06230) on few images, on a CPU or a small GPU: 320 pixels, mosaics of four at most, texts frozen.

It wants a vision transformer, `--backbone open_clip:ViT-B-16@weights.safetensors` or, to start from a detector,
`--backbone hf:<folder of OWL-ViT>`. Not the published setting, which is the recipe owlvit.
"""

_base_ = "./owlvit.py"

image_size = 320
epochs, warm_up = 50, 50

model = dict(train_text=False, image_droplayer=0.0)

load = [dict(type="vladapt.LoadItemImage")]
fit = dict(type="mmdet.Resize", scale=(image_size, image_size), keep_ratio=True)
pack = {{_base_.pack}}
train_pipeline = [dict(type="vladapt.OWLMosaic", size=image_size, grids=(1, 2), probs=(0.7, 0.3)), pack]
tile_pipeline = [
    *load,
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.RandomFlip", prob=0.5),
    dict(type="vladapt.OWLRandomCrop", area_range=(0.6, 1.0)),
]
test_pipeline = [*load, fit, pack]

train_dataloader = dict(
    num_workers=2,
    sampler=dict(type="DefaultSampler"),
    dataset=dict(dataset=dict(pipeline=tile_pipeline), pipeline=train_pipeline),
)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=epochs)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(tower=dict(lr_mult=0.1))),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=warm_up),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=epochs, T_max=epochs, convert_to_iter_based=True),
]
