"""RepVL-PAN, YOLO-World's neck: a path aggregation network that knows which names are looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import CSPLayer
from mmdet.models.necks import CSPNeXtPAFPN
from torch import Tensor, nn

from ......core.contracts import require
from ......registry import MODELS
from .attention import NORM, ImagePoolingAttention, MaxSigmoidAttention


class TextCSPLayer(CSPLayer):
    """mmdet's CSPLayer (CSPNet, 2019, arXiv 1911.11929) with one more part: its last block's map under a
    `MaxSigmoidAttention`, beside the block's own and the short cut.

    Args:
        text_channels: D.
        embed_channels, num_heads: of the attention.
        options: of mmdet's CSPLayer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        text_channels: int,
        embed_channels: int | None = None,
        num_heads: int | None = None,
        expand_ratio: float = 0.5,
        norm_cfg: Mapping[str, Any] = NORM,
        act_cfg: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        act_cfg = act_cfg or {"type": "SiLU", "inplace": True}
        super().__init__(
            in_channels, out_channels, expand_ratio=expand_ratio, norm_cfg=norm_cfg, act_cfg=act_cfg, **options
        )
        middle = int(out_channels * expand_ratio)
        self.text_attention = MaxSigmoidAttention(middle, text_channels, embed_channels, num_heads, norm_cfg)
        self.final_conv = ConvModule(3 * middle, out_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor, texts: Tensor) -> Tensor:
        """(B, in_channels, H, W) and texts (B or 1, C, D) -> (B, out_channels, H, W)."""
        of_blocks = self.blocks(self.main_conv(x))
        guided = self.text_attention(of_blocks, texts)
        return self.final_conv(torch.cat([of_blocks, guided, self.short_conv(x)], dim=1))


@MODELS.register_module()
class RepVLPAN(CSPNeXtPAFPN):
    """Re-parameterisable vision-language path aggregation network.

    "YOLO-World: Real-Time Open-Vocabulary Object Detection", 2024, arXiv 2401.17270, on the neck of RTMDet (arXiv
    2212.07784) in place of YOLOv8's. Names guide each CSP layer; with `image_pooling` the names are told between the
    way down and the way up what the image shows, as in the paper. The authors' second release leaves that away, so
    that a fixed vocabulary becomes weights altogether.

    Args:
        in_channels: of each map of the backbone.
        out_channels: of each map that comes out.
        text_channels: D; the detector says it.
        image_pooling: whether there is an `ImagePoolingAttention`.
        embed_channels, num_heads: of the max-sigmoid attention at each level from `start_level` on; None as many as
            the CSP layer has inside, and a head for every 32.
        pooling: options of `ImagePoolingAttention`.
        start_level: the first map that is used; the finer ones are left out.
        num_csp_blocks, expand_ratio, use_depthwise, conv_cfg, norm_cfg, act_cfg, options: of mmdet's CSPNeXtPAFPN.

    Raises:
        ConfigError: not so many embed_channels or num_heads as levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        text_channels: int,
        *,
        image_pooling: bool = True,
        embed_channels: Sequence[int] | None = None,
        num_heads: Sequence[int] | None = None,
        pooling: Mapping[str, Any] | None = None,
        start_level: int = 0,
        num_csp_blocks: int = 3,
        use_depthwise: bool = False,
        expand_ratio: float = 0.5,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = NORM,
        act_cfg: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        act_cfg = act_cfg or {"type": "SiLU", "inplace": True}
        widths = list(in_channels)[start_level:]
        shared = {
            "num_csp_blocks": num_csp_blocks,
            "use_depthwise": use_depthwise,
            "expand_ratio": expand_ratio,
            "conv_cfg": conv_cfg,
            "norm_cfg": norm_cfg,
            "act_cfg": act_cfg,
        }
        super().__init__(widths, out_channels, **shared, **options)
        self.start_level = start_level
        levels = len(widths)
        for name, values in (("embed_channels", embed_channels), ("num_heads", num_heads)):
            require(values is None or len(values) == levels, name, values, f"give one for each of {levels} levels")
        embed_channels, num_heads = embed_channels or [None] * levels, num_heads or [None] * levels

        def layer(place: int, inner: int) -> TextCSPLayer:
            return TextCSPLayer(
                2 * inner,
                widths[place],
                text_channels=text_channels,
                embed_channels=embed_channels[place],
                num_heads=num_heads[place],
                num_blocks=num_csp_blocks,
                add_identity=False,
                use_depthwise=use_depthwise,
                use_cspnext_block=True,
                expand_ratio=expand_ratio,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
            )

        self.top_down_blocks = nn.ModuleList(layer(place, widths[place]) for place in range(levels - 2, -1, -1))
        self.bottom_up_blocks = nn.ModuleList(layer(place + 1, widths[place]) for place in range(levels - 1))
        self.image_pooling = None
        if image_pooling:
            self.image_pooling = ImagePoolingAttention(widths[:1] + widths[:-1], text_channels, **(pooling or {}))

    def forward(self, maps: Sequence[Tensor], texts: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Maps, fine to coarse, and texts (B or 1, C, D) -> as many maps (B, out_channels, h, w), and texts (B or 1,
        C, D), which the image has changed where there is image pooling."""
        down = [maps[-1]]
        fine_first = list(maps)[self.start_level :]
        for reduce, block, fine in zip(self.reduce_layers, self.top_down_blocks, fine_first[-2::-1], strict=True):
            down[0] = reduce(down[0])
            down.insert(0, block(torch.cat([self.upsample(down[0]), fine], dim=1), texts))
        if self.image_pooling is not None:
            texts = self.image_pooling(texts, down)
        up = [down[0]]
        for downsample, block, coarse in zip(self.downsamples, self.bottom_up_blocks, down[1:], strict=True):
            up.append(block(torch.cat([downsample(up[-1]), coarse], dim=1), texts))
        return tuple(convolve(x) for convolve, x in zip(self.out_convs, up, strict=True)), texts

    def fold(self, texts: Tensor) -> None:
        """What texts (C, D) say becomes weights, as far as the image does not change them."""
        for block in self.top_down_blocks:
            block.text_attention.fold(texts)
        if self.image_pooling is not None:
            self.image_pooling.fold(texts)
            return
        for block in self.bottom_up_blocks:
            block.text_attention.fold(texts)

    def unfold(self) -> None:
        """As before `fold`."""
        for block in (*self.top_down_blocks, *self.bottom_up_blocks):
            block.text_attention.unfold()
        if self.image_pooling is not None:
            self.image_pooling.unfold()
