"""YOLO-World on RTMDet: one stage whose neck and head read the names, which become weights for prediction.

YOLO-World (arXiv 2401.17270) on RTMDet (arXiv 2212.07784), made narrower for small data and a CPU. Without the paper's
image pooling, so that all names are folded: `--set plan.model.neck.image_pooling=True` has it. With the L2 norms of the
paper; `--set plan.model.bbox_head.norm=bn` has the batch norms of its authors' second release.
"""

_base_ = "./faster_rcnn.py"

epochs = 20
channels = 96
norm_cfg = dict(type="BN", momentum=0.03, eps=0.001)
act_cfg = dict(type="SiLU", inplace=True)

model = dict(
    _delete_=True,
    type="vladapt.YOLOWorld",
    data_preprocessor={{_base_.model.data_preprocessor}},
    texts={{_base_.model.roi_head.bbox_head.classifier}},
    backbone={{_base_.model.backbone}},
    neck=dict(
        type="vladapt.RepVLPAN",
        in_channels=[24, 40, 112, 320],
        start_level=1,
        out_channels=channels,
        num_csp_blocks=1,
        image_pooling=False,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        type="vladapt.YOLOWorldHead",
        norm="l2",
        in_channels=channels,
        feat_channels=channels,
        stacked_convs=2,
        share_conv=True,
        exp_on_reg=True,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="vladapt.RegionTextContrastiveLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    train_cfg=dict(
        assigner=dict(type="DynamicSoftLabelAssigner", topk=13), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.01, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100
    ),
)

train_dataloader = dict(batch_size=8)
train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    clip_grad=dict(max_norm=10.0),
    paramwise_cfg=dict(bypass_duplicate=True),  # levels share convolutions
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=epochs, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
