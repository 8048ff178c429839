"""Alpha-CLIP (arXiv 2312.03818) names given boxes: an alpha channel shows each box to the tower.

For given regions without names; the test's scores say how well its boxes are named. The published learning rate of the
tower is a hundredth of that of the alpha channel's convolution.
"""

_base_ = "./faster_rcnn.py"

epochs = 4

vladapt = dict(_delete_=True, domain="open-vocab", task="detection")
model = dict(_delete_=True, type="vladapt.AlphaCLIPRegions", backbone={{_base_.backbone}}, classes={{_base_.classes}})

load = [dict(type="vladapt.LoadItemImage"), dict(type="LoadAnnotations", with_bbox=True)]
train_pipeline = [
    *load,
    dict(type="vladapt.FitImage", scale={{_base_.image_scale}}),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs", meta_keys={{_base_.kept}}),
]
test_pipeline = [
    *load,
    dict(type="vladapt.FitImage", scale={{_base_.image_scale}}),
    dict(type="PackDetInputs", meta_keys={{_base_.kept}}),
]

train_dataloader = dict(batch_sampler=None, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.02),
    paramwise_cfg=dict(custom_keys={"image.tower": dict(lr_mult=0.01)}),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=epochs, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True)
]
