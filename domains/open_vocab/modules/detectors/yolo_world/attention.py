"""How image and texts see each other in YOLO-World, 2024, arXiv 2401.17270: max-sigmoid and image-pooling attention.

Texts are (B, C, D), or (1, C, D) for all images alike. What depends on texts alone can be computed once, as weights of
1 x 1 convolutions (`fold`), for a vocabulary that stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ......core.contracts import require

NORM = {"type": "BN", "momentum": 0.03, "eps": 0.001}
HEAD_CHANNELS = 32
"""Of one head of the max-sigmoid attention, as published: 2 to 16 heads."""
POOLED = 3
"""Patches along each side of each pooled map: 27 of three maps."""


class MaxSigmoidAttention(nn.Module):
    """x * sigmoid(max over texts of x . text): each cell is kept as far as the name that fits it best says (eq. 2).

    Args:
        channels: of the map, which come out again.
        text_channels: D.
        embed_channels: in which maps and texts are compared; None are as many as the map has.
        num_heads: each compares a part of the embeddings and weighs a part of the channels; None is one for every 32.
        norm_cfg: of the convolutions.

    Raises:
        ConfigError: channels that do not divide among the heads.
    """

    folded_weight: Tensor | None = None

    def __init__(
        self,
        channels: int,
        text_channels: int,
        embed_channels: int | None = None,
        num_heads: int | None = None,
        norm_cfg: Mapping[str, Any] = NORM,
    ):
        super().__init__()
        embed_channels = embed_channels or channels
        self.num_heads = num_heads or max(1, embed_channels // HEAD_CHANNELS)
        divides = not channels % self.num_heads and not embed_channels % self.num_heads
        require(divides, "num_heads", self.num_heads, f"give a divisor of {channels} and {embed_channels} channels")
        self.embed = None
        if embed_channels != channels:
            self.embed = ConvModule(channels, embed_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.guide = nn.Linear(text_channels, embed_channels)
        self.bias = nn.Parameter(torch.zeros(self.num_heads))
        self.project = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor, texts: Tensor) -> Tensor:
        """(B, channels, H, W) and texts -> (B, channels, H, W)."""
        embedded = x if self.embed is None else self.embed(x)
        alike = self._alike(embedded, texts) if self.folded_weight is None else self._alike_folded(embedded)
        weights = (alike + self.bias[:, None, None]).sigmoid()  # (B, M, H, W)
        return (self.project(x).unflatten(1, (self.num_heads, -1)) * weights[:, :, None]).flatten(1, 2)

    @torch.no_grad()
    def fold(self, texts: Tensor) -> None:
        """Texts (C, D) as the weights of a convolution, from now on."""
        guides = self._scaled(texts)  # (C, M, d)
        self.folded_weight = guides.transpose(0, 1).flatten(0, 1)[..., None, None].contiguous()  # (M * C, d, 1, 1)

    def unfold(self) -> None:
        """As before `fold`."""
        self.folded_weight = None

    def _alike(self, embedded: Tensor, texts: Tensor) -> Tensor:
        """(B, M, H, W): the best text's, of each head."""
        parts = embedded.unflatten(1, (self.num_heads, -1))  # (B, M, d, H, W)
        return torch.einsum("bmdhw,bcmd->bmchw", parts, self._scaled(texts)).amax(dim=2)

    def _alike_folded(self, embedded: Tensor) -> Tensor:
        return F.conv2d(embedded, self.folded_weight, groups=self.num_heads).unflatten(1, (self.num_heads, -1)).amax(2)

    def _scaled(self, texts: Tensor) -> Tensor:
        """(..., D) -> (..., M, d), divided by the square root of d."""
        guides = self.guide(texts).unflatten(-1, (self.num_heads, -1))
        return guides / guides.shape[-1] ** 0.5


class ImagePoolingAttention(nn.Module):
    """text + attention(text, patches): texts are told what the image shows, by 3 x 3 patches of each map (eq. 3).

    Args:
        in_channels: of each map.
        text_channels: D.
        embed_channels: in which texts and patches are compared.
        num_heads: of the attention.
        pool_size: patches along each side of a map; the largest value of each channel in a patch is taken.

    Raises:
        ConfigError: channels that do not divide among the heads.
    """

    folded_queries: Tensor | None = None

    def __init__(
        self,
        in_channels: Sequence[int],
        text_channels: int,
        embed_channels: int = 256,
        num_heads: int = 8,
        pool_size: int = POOLED,
    ):
        super().__init__()
        require(embed_channels % num_heads == 0, "num_heads", num_heads, f"give a divisor of {embed_channels}")
        self.num_heads, self.pool_size = num_heads, pool_size
        self.projections = nn.ModuleList(nn.Conv2d(channels, embed_channels, 1) for channels in in_channels)
        self.query = nn.Sequential(nn.LayerNorm(text_channels), nn.Linear(text_channels, embed_channels))
        self.key = nn.Sequential(nn.LayerNorm(embed_channels), nn.Linear(embed_channels, embed_channels))
        self.value = nn.Sequential(nn.LayerNorm(embed_channels), nn.Linear(embed_channels, embed_channels))
        self.out = nn.Linear(embed_channels, text_channels)

    def forward(self, texts: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Texts and maps (B, channels, H, W) -> (B, C, D)."""
        patches = [
            F.adaptive_max_pool2d(project(x), self.pool_size).flatten(2)
            for project, x in zip(self.projections, maps, strict=True)
        ]
        patches = torch.cat(patches, dim=-1).transpose(1, 2)  # (B, P, E)
        queries = self.query(texts) if self.folded_queries is None else self.folded_queries
        queries = queries.expand(len(patches), -1, -1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (queries, self.key(patches), self.value(patches))
        )
        return texts + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    @torch.no_grad()
    def fold(self, texts: Tensor) -> None:
        """The queries of texts (C, D), computed once."""
        self.folded_queries = self.query(texts[None])

    def unfold(self) -> None:
        """As before `fold`."""
        self.folded_queries = None
