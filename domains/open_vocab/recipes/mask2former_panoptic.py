"""Mask2Former whose classes are texts, for objects: boxes, outlines, and each pixel given to one object at most.

Mask2Former (arXiv 2112.01527) as mmdet has it, with FC-CLIP's classifier of its decoder (arXiv 2308.02487), made
narrower as `mask2former`. For data with polygons or encoded masks; their objects are all things. Stuff is read from
panoptic sets by a config of mmdet's.
"""

_base_ = "./faster_rcnn.py"

backbone = "embedded"
classes = ["a class", "another class"]
epochs = 40
image_scale = (512, 320)  # longer and shorter side at most, in pixels
channels, heads, queries = 64, 4, 20
vladapt = dict(least_steps=1200)

position = dict(num_feats=channels // 2, normalize=True)
attention = dict(embed_dims=channels, num_heads=heads, dropout=0.0, batch_first=True)
feed_forward = dict(
    embed_dims=channels,
    feedforward_channels=4 * channels,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type="ReLU", inplace=True),
)

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
    backbone=dict(type="vladapt.CLIPVisionBackbone", backbone=backbone, frozen_stages=1),
    neck=dict(
        type="ChannelMapper",
        in_channels=[24, 40, 112, 320],
        out_channels=channels,
        kernel_size=1,
        norm_cfg=dict(type="GN", num_groups=32),
        act_cfg=None,
        num_outs=4,
    ),
    panoptic_head=dict(
        type="vladapt.TextMask2FormerHead",
        classifier=dict(backbone=backbone, classes=classes, templates="photo"),
        in_channels=[channels] * 4,
        strides=[4, 8, 16, 32],
        named_by="pixels",  # FC-CLIP: "both", with 2 hidden layers, which few names are soon known by heart by
        class_layers=0,
        feat_channels=channels,
        out_channels=channels,
        num_queries=queries,
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type="MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=2,
                layer_cfg=dict(self_attn_cfg=dict(**attention, num_levels=3, num_points=4), ffn_cfg=feed_forward),
            ),
            positional_encoding=position,
        ),
        positional_encoding=position,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
        ),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=2.0, reduction="mean"),
        loss_mask=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=5.0, reduction="mean"),
        loss_dice=dict(
            type="DiceLoss",
            use_sigmoid=True,
            activate=True,
            reduction="mean",
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
    ),
    panoptic_fusion_head=dict(type="MaskFormerFusionHead", loss_panoptic=None),
    train_cfg=dict(
        num_points=1024,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="ClassificationCost", weight=2.0),
                dict(type="CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
                dict(type="DiceCost", weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type="MaskPseudoSampler"),
    ),
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

kept = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction", "facts", "instances")
train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="vladapt.FitImage", scale=image_scale),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs", meta_keys=kept),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=True)))
test_evaluator = [
    dict(type="vladapt.OpenVocabDetectionMetric", metric="segm"),
    dict(type="vladapt.OpenVocabPanopticMetric"),
]

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=0, end=epochs, by_epoch=True, convert_to_iter_based=True),
]
