"""What the recipes of Mask2Former share: its decoders, losses and schedule, narrow for small data and a CPU."""

query_epochs = 40
channels, heads, queries = 64, 4, 20
query_neck = dict(
    type="mmdet.ChannelMapper",
    in_channels=[24, 40, 112, 320],
    out_channels=channels,
    kernel_size=1,
    norm_cfg=dict(type="GN", num_groups=32),
    act_cfg=None,
    num_outs=4,
)
position = dict(num_feats=channels // 2, normalize=True)
attention = dict(embed_dims=channels, num_heads=heads, dropout=0.0, batch_first=True)
feed_forward = dict(
    embed_dims=channels,
    feedforward_channels=4 * channels,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type="ReLU", inplace=True),
)
pixel_decoder = dict(
    type="mmdet.MSDeformAttnPixelDecoder",
    num_outs=3,
    norm_cfg=dict(type="GN", num_groups=32),
    act_cfg=dict(type="ReLU"),
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(self_attn_cfg=dict(**attention, num_levels=3, num_points=4), ffn_cfg=feed_forward),
    ),
    positional_encoding=position,
)
query_decoder = dict(
    return_intermediate=True,
    num_layers=3,
    layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
)
loss_cls = dict(type="mmdet.CrossEntropyLoss", use_sigmoid=False, loss_weight=2.0, reduction="mean")
loss_mask = dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True, loss_weight=5.0, reduction="mean")
loss_dice = dict(
    type="mmdet.DiceLoss",
    use_sigmoid=True,
    activate=True,
    reduction="mean",
    naive_dice=True,
    eps=1.0,
    loss_weight=5.0,
)
query_training = dict(
    num_points=1024,
    oversample_ratio=3.0,
    importance_sample_ratio=0.75,
    assigner=dict(
        type="mmdet.HungarianAssigner",
        match_costs=[
            dict(type="mmdet.ClassificationCost", weight=2.0),
            dict(type="mmdet.CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
            dict(type="mmdet.DiceCost", weight=5.0, pred_act=True, eps=1.0),
        ],
    ),
    sampler=dict(type="mmdet.MaskPseudoSampler"),
)
query_schedule = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, begin=0, end=query_epochs, by_epoch=True, convert_to_iter_based=True),
]
