"""Faster R-CNN whose classes are texts, on a vision tower with a feature pyramid: boxes for any names.

Faster R-CNN (arXiv 1506.01497) with FPN (arXiv 1612.03144) as mmdet has it, made narrower for small data and a CPU;
text embeddings in place of the classification layer as in ViLD (arXiv 2104.13921).
"""

vladapt = dict(domain="open-vocab", task="detection", least_steps=150)
default_scope = "mmdet"

backbone = "embedded"
classes = ["a class", "another class"]
data = "sample"  # the path of a data set
image_scale = (512, 320)  # longer and shorter side at most, in pixels
epochs = 12

model = dict(
    type="FasterRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type="vladapt.CLIPVisionBackbone", backbone=backbone, frozen_stages=1),
    neck=dict(type="FPN", in_channels=[24, 40, 112, 320], out_channels=128, num_outs=5),
    rpn_head=dict(
        type="RPNHead",
        in_channels=128,
        feat_channels=128,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
            out_channels=128,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type="vladapt.TextShared2FCBBoxHead",
            classifier=dict(backbone=backbone, classes=classes, templates="photo"),
            in_channels=128,
            fc_out_channels=512,
            roi_feat_size=7,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]
            ),
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner", pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True
            ),
            sampler=dict(type="RandomSampler", num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=1000, max_per_img=500, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False
            ),
            sampler=dict(type="RandomSampler", num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=300, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    ),
)

kept = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction", "facts", "instances")
train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="vladapt.FitImage", scale=image_scale),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs", meta_keys=kept),
]
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="vladapt.FitImage", scale=image_scale),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=kept),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(type="vladapt.DetectionDataset", path=data, split="train", pipeline=train_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vladapt.DetectionDataset", path=data, split="test", test_mode=True, pipeline=test_pipeline),
)
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}, norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=epochs, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
