"""Semantic FPN whose classes are texts, on a vision tower: a class for every pixel, by names.

Panoptic Feature Pyramid Networks (arXiv 1901.02446) as mmseg has it, with text embeddings in place of the last layer. A
class called "background" is learned and not asked by its text.
"""

vladapt = dict(domain="open-vocab", task="segmentation", least_steps=240)
default_scope = "mmseg"

backbone = "embedded"
classes = ["a class", "another class"]
data = "sample"  # the path of a data set
image_scale = (512, 320)  # longer and shorter side at most, in pixels
crop_size = (256, 256)
epochs = 20
norm_cfg = dict(type="GN", num_groups=32, requires_grad=True)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=32,
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(type="vladapt.CLIPVisionBackbone", backbone=backbone, frozen_stages=1),
    neck=dict(type="FPN", in_channels=[24, 40, 112, 320], out_channels=128, num_outs=4),
    decode_head=dict(
        type="vladapt.TextFPNHead",
        classifier=dict(
            backbone=backbone,
            classes=classes,
            templates="photo",
            background="learned",
            background_class="background",
            temperature=0.07,
        ),
        in_channels=[128, 128, 128, 128],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.LoadSegmentation"),
    dict(type="vladapt.FitImage", scale=image_scale),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.9),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.FitImage", scale=image_scale),
    dict(type="vladapt.LoadSegmentation"),
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="vladapt.SegmentationDataset", path=data, split="train", pipeline=train_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.SegmentationDataset", path=data, split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabSegmentationMetric")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}, norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
