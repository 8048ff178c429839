"""DenseCLIP on Semantic FPN (arXiv 2112.01518, 1901.02446): score maps of pixels and class names guide segmentation.

Made narrower for small data and a CPU. As published: `--backbone open_clip:RN50/openai` or another CLIP, crops of 512
pixels (640 for ViT-B/16, with tower.drop_path 0.1 and norms shared over processes), 256 channels, AdamW at 1e-4 for
80,000 steps of 32 images, warm-up 1,500. The published model is closed: at test time it takes as many names as it
learned. For names it never saw take recipe fpn.
"""

_base_ = "./fpn.py"

image_scale = (256, 256)  # longer and shorter side at most, in pixels
crop_size = (192, 192)
channels = 128
epochs, warm_up = 30, 50

model = dict(
    _delete_=True,
    type="vladapt.DenseCLIPSegmentor",
    backbone={{_base_.backbone}},
    classes={{_base_.classes}},
    matching=dict(n_ctx=8, prompting="after", decoder=dict(width=256, heads=4, layers=3)),
    neck=dict(type="mmdet.FPN", out_channels=channels, num_outs=4),
    decode_head=dict(
        type="mmseg.FPNHead",
        in_channels=[channels] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=channels,
        dropout_ratio=0.1,
        norm_cfg=dict(type="BN", requires_grad=True),
        loss_decode=dict(type="mmseg.CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    identity_head=dict(
        type="vladapt.IdentityHead", loss_decode=dict(type="mmseg.CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4)
    ),
    test_cfg=dict(mode="whole"),
)

train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.LoadSegmentation"),
    dict(type="RandomResize", scale=image_scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.95),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=crop_size, pad_val=dict(img=0, seg=255)),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    dict(type="vladapt.LoadSegmentation"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=1e-4),
    paramwise_cfg=dict(_delete_=True, custom_keys={"backbone.part": dict(lr_mult=0.1), "norm": dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=warm_up),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
