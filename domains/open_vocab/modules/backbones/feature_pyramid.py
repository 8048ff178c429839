"""A feature pyramid from the last map of a plain vision transformer.

Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), 2022, arXiv 2203.16527.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts import require

SCALES = (4, 2, 1, 0.5)
"""How much finer each level is than the map it comes from."""


class SimpleFeaturePyramid(nn.Module):
    """Maps at 4, 2, 1 and 1/2 times the resolution of one, by deconvolutions and a max-pooling, then on each a 1x1 and
    a 3x3 convolution with layer norms. A map of odd side keeps its last row and column in the pooled one.

    Args:
        in_channels: W, a multiple of 4.
        out_channels: of all levels.
        num_outs: levels; from the fifth on, each is every other cell of the one before.
        out_indices: the levels that are given, from fine to coarse; what none of them needs is not built. None is all.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = len(SCALES),
        out_indices: Sequence[int] | None = None,
    ):
        super().__init__()
        require(in_channels % 4 == 0, "in_channels", in_channels, "give a multiple of 4")
        require(out_channels >= 1, "out_channels", out_channels, "give 1 or more")
        enough = f"give {len(SCALES)} or more; out_indices leaves some out"
        require(num_outs >= len(SCALES), "num_outs", num_outs, enough)
        self.out_channels = out_channels
        self.out_indices = tuple(range(num_outs) if out_indices is None else out_indices)
        built = sorted({min(index, len(SCALES) - 1) for index in self.out_indices})
        self.levels = nn.ModuleDict({str(i): _level(in_channels, out_channels, SCALES[i]) for i in built})

    def forward(self, last: Tensor) -> list[Tensor]:
        """(B, W, h, w) -> the maps of `out_indices`, of `out_channels`."""
        maps = {int(index): level(last) for index, level in self.levels.items()}
        for index in range(len(SCALES), max(self.out_indices) + 1):
            maps[index] = F.max_pool2d(maps[index - 1], kernel_size=1, stride=2)
        return [maps[index] for index in self.out_indices]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of (B, W, h, w)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _level(width: int, out_channels: int, scale: float) -> nn.Sequential:
    resized, channels = _resized(width, scale)
    return nn.Sequential(
        *resized,
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        ChannelNorm(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        ChannelNorm(out_channels),
    )


def _resized(width: int, scale: float) -> tuple[list[nn.Module], int]:
    """What changes the resolution, and how many channels come out of it."""
    if scale == 4:
        first = nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)
        second = nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2)
        return [first, ChannelNorm(width // 2), nn.GELU(), second], width // 4
    if scale == 2:
        return [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)], width // 2
    if scale == 1:
        return [], width
    return [nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)], width
