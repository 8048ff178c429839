"""Mask R-CNN whose classes are texts: boxes and outlines for any names. For data with polygons or encoded masks.

Mask R-CNN (arXiv 1703.06870) on the recipe `faster-rcnn`; one mask for all classes, so that new names have masks too.
"""

_base_ = "./faster_rcnn.py"

model = dict(
    type="MaskRCNN",
    roi_head=dict(
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=2),
            out_channels=128,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="vladapt.ClassAgnosticMaskHead",
            num_convs=4,
            in_channels=128,
            conv_out_channels=128,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)

train_pipeline = [
    dict(type="vladapt.LoadItemImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="vladapt.FitImage", scale={{_base_.image_scale}}),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs", meta_keys={{_base_.kept}}),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_evaluator = dict(type="vladapt.OpenVocabDetectionMetric", metric="segm")
