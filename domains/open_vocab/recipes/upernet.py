"""UPerNet whose classes are texts, on a vision tower: a class for every pixel, with more context than `fpn`.

Unified Perceptual Parsing for Scene Understanding (arXiv 1807.10221) as mmseg has it, on the recipe `fpn`.
"""

_base_ = "./fpn.py"

norm_cfg = {{_base_.norm_cfg}}
texts = {{_base_.model.decode_head.classifier}}

model = dict(
    decode_head=dict(
        _delete_=True,
        type="vladapt.TextUPerHead",
        classifier=texts,
        in_channels=[128, 128, 128, 128],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=128,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="vladapt.TextFCNHead",
        classifier=texts,
        in_channels=128,
        in_index=2,
        channels=64,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
)
