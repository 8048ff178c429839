"""Mask2Former whose classes are texts: a mask and a name for each region, for every pixel the best of them.

Mask2Former (arXiv 2112.01527) as mmseg has it, with FC-CLIP's classifier of its decoder (arXiv 2308.02487), made
narrower for small data and a CPU. As published: 256 channels, 6 layers of the encoder and 9 of the decoder, 100
queries, 12,544 points, a rate of 1e-4.
"""

_base_ = ["./fpn.py", "./parts/mask2former.py"]

epochs = {{_base_.query_epochs}}
vladapt = dict(least_steps=1200)

model = dict(
    type="vladapt.TextMask2FormerSegmentor",
    neck={{_base_.query_neck}},
    decode_head=dict(
        _delete_=True,
        type="vladapt.TextMask2FormerDecodeHead",
        classifier=dict(
            backbone={{_base_.backbone}},
            classes={{_base_.classes}},
            templates="photo",
            background="learned",
            background_class="background",
        ),
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
        train_cfg={{_base_.query_training}},
    ),
)

train_cfg = dict(max_epochs={{_base_.query_epochs}})
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=0.01))
param_scheduler = {{_base_.query_schedule}}
