"""DenseCLIP on RetinaNet (arXiv 2112.01518, 1708.02002): score maps of pixels and class names guide detection.

Made narrower for small data and a CPU. As published: `--backbone open_clip:RN50/openai`, sides of 1333 and 800 pixels,
256 channels, AdamW at 1e-4, gradients clipped at 0.1, 12 epochs of COCO in steps at 8 and 11. Closed, as recipe
denseclip; for names it never saw take recipe faster-rcnn.
"""

_base_ = "./faster_rcnn.py"

channels = 128
epochs, warm_up = 12, 50

model = dict(
    _delete_=True,
    type="vladapt.DenseCLIPDetector",
    backbone={{_base_.backbone}},
    classes={{_base_.classes}},
    matching=dict(n_ctx=8, prompting="after", decoder=dict(width=256, heads=4, layers=3)),
    score_loss=dict(type="vladapt.BoxScoreLoss", region="image", loss_weight=1.0),
    detector=dict(
        type="mmdet.RetinaNet",
        neck=dict(type="mmdet.FPN", out_channels=channels, start_level=1, add_extra_convs="on_input", num_outs=5),
        bbox_head=dict(
            type="mmdet.RetinaHead",
            in_channels=channels,
            feat_channels=channels,
            stacked_convs=2,
            anchor_generator=dict(
                type="mmdet.AnchorGenerator",
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[0.5, 1.0, 2.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(
                type="mmdet.DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]
            ),
            loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type="mmdet.L1Loss", loss_weight=1.0),
        ),
        train_cfg=dict(
            assigner=dict(type="mmdet.MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type="mmdet.PseudoSampler"),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100
        ),
    ),
)

train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs", meta_keys={{_base_.kept}}),
]
test_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="Resize", scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys={{_base_.kept}}),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(
    optimizer=dict(weight_decay=1e-4),
    paramwise_cfg=dict(_delete_=True, custom_keys={"backbone.part": dict(lr_mult=0.1), "norm": dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=warm_up),
    dict(type="CosineAnnealingLR", T_max=epochs, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
