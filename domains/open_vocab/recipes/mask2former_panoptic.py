"""Mask2Former whose classes are texts, for objects: boxes, outlines, and each pixel given to one object at most.

Mask2Former (arXiv 2112.01527) as mmdet has it, with FC-CLIP's classifier of its decoder (arXiv 2308.02487), made
narrower as `mask2former`. For data with polygons or encoded masks; their objects are all things. Stuff is read from
panoptic sets by a config of mmdet's.
"""

_base_ = ["./mask_rcnn.py", "./parts/mask2former.py"]

epochs = {{_base_.query_epochs}}
vladapt = dict(least_steps=1200)

model = dict(
    _delete_=True,
    type="vladapt.TextMask2Former",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
    ),
    backbone={{_base_.model.backbone}},
    neck={{_base_.query_neck}},
    panoptic_head=dict(
        type="vladapt.TextMask2FormerHead",
        classifier={{_base_.model.roi_head.bbox_head.classifier}},
        in_channels=[{{_base_.channels}}] * 4,
        strides=[4, 8, 16, 32],
        named_by="pixels",  # FC-CLIP: "both", with 2 hidden layers, which few names are soon known by heart by
        class_layers=0,
        frozen_tower=None,  # FC-CLIP: dict(), for a tower that was trained with texts; `embedded` was not
        feat_channels={{_base_.channels}},
        out_channels={{_base_.channels}},
        num_queries={{_base_.queries}},
        num_transformer_feat_level=3,
        pixel_decoder={{_base_.pixel_decoder}},
        positional_encoding={{_base_.position}},
        transformer_decoder={{_base_.query_decoder}},
        loss_cls={{_base_.loss_cls}},
        loss_mask={{_base_.loss_mask}},
        loss_dice={{_base_.loss_dice}},
    ),
    panoptic_fusion_head=dict(type="MaskFormerFusionHead", loss_panoptic=None),
    train_cfg={{_base_.query_training}},
    test_cfg=dict(
        panoptic_on=True,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        object_mask_thr=0.0,  # as FC-CLIP where names were not trained; 0.8 where all were
        iou_thr=0.8,
        filter_low_score=True,
    ),
)

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=True)))
test_evaluator = [
    dict(type="vladapt.OpenVocabDetectionMetric", metric="segm"),
    dict(type="vladapt.OpenVocabPanopticMetric"),
]

train_cfg = dict(max_epochs={{_base_.query_epochs}})
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
param_scheduler = {{_base_.query_schedule}}
