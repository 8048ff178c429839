"""SimFeatUp, its upsampler `jbu_one`: one joint bilateral filter that doubles a map of features four times.

"SegEarth-OV: Towards Training-Free Open-Vocabulary Segmentation for Remote Sensing Images" (2024, arXiv 2410.01768),
after "FeatUp: A Model-Agnostic Framework for Features at Any Resolution" (2024, arXiv 2403.10516).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ......core.backbones import module_of_file

RADIUS, KEY_DIM = 5, 32
DOUBLINGS = 4
FIXUP = 0.1
PREFIX = "upsampler."
"""Of the released weights."""
LEAST_SUM = 1e-7


class JointBilateral(nn.Module):
    """A map of features, doubled: each new pixel is a weighted mean of those around it, more of those of like colour.

    Args:
        radius: of the window in pixels of the result.
        key_dim: width of what colours are compared by.
    """

    def __init__(self, radius: int = RADIUS, key_dim: int = KEY_DIM):
        super().__init__()
        self.radius, places = radius, (2 * radius + 1) ** 2
        self.range_temp = nn.Parameter(torch.zeros(()))
        self.sigma_spatial = nn.Parameter(torch.ones(()))
        self.range_proj = _pointwise(3, key_dim)
        self.fixup_proj = _pointwise(3 + places, places)

    def forward(self, source: Tensor, image: Tensor) -> Tensor:
        """Features (B, D, h, w) and the image (B, 3, H, W) they are of -> (B, D, 2h, 2w)."""
        guidance = F.adaptive_avg_pool2d(image, (2 * source.shape[-2], 2 * source.shape[-1]))
        kernel = self.kernel(guidance)  # (B, K, 2h, 2w)
        large = F.interpolate(source, size=guidance.shape[-2:], mode="bicubic", align_corners=False)
        result = torch.zeros_like(large)
        for place, moved in enumerate(_around(large, self.radius)):
            result.addcmul_(kernel[:, place : place + 1], moved)
        return result

    def kernel(self, guidance: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H, W): the weight of each of the K pixels around."""
        kernel = self.range_kernel(guidance) * self.spatial_kernel()
        kernel = kernel / kernel.sum(dim=1, keepdim=True).clamp(min=LEAST_SUM)
        return kernel + FIXUP * self.fixup_proj(torch.cat([kernel, guidance], dim=1))

    def range_kernel(self, guidance: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H, W), summing to 1: how alike the colours are."""
        keys = self.range_proj(guidance)
        alike = torch.stack([(moved * keys).sum(dim=1) for moved in _around(keys, self.radius)], dim=1)
        return torch.softmax(self.range_temp.exp().clamp(1e-4, 1e4) * alike, dim=1)

    def spatial_kernel(self) -> Tensor:
        """(1, K, 1, 1), 1 in the middle: how near the places are."""
        along = torch.linspace(-1, 1, 2 * self.radius + 1, device=self.sigma_spatial.device)
        squares = along[:, None] ** 2 + along**2
        return torch.exp(-squares / (2 * self.sigma_spatial**2)).reshape(1, -1, 1, 1)


class JBUOne(nn.Module):
    """Sixteen times as many pixels each way, by one filter four times.

    Args:
        dim: D, of the features.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.up = JointBilateral()
        self.fixup_proj = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(dim, dim, 1))

    def forward(self, source: Tensor, image: Tensor) -> Tensor:
        """(B, D, h, w) and the image (B, 3, H, W) -> (B, D, 16h, 16w)."""
        for _ in range(DOUBLINGS):
            source = self.up(source, image)
        return source + FIXUP * self.fixup_proj(source)


@lru_cache(maxsize=4)
def load_upsampler(file: str, dim: int, device: str) -> JBUOne:
    """The upsampler of a file of weights, those released or a state dict; one per process, no part of any model.

    Raises:
        DataError: the file cannot be read, or is of another upsampler or another width of features.
    """
    model = module_of_file(lambda: JBUOne(dim), Path(file), f"SimFeatUp's jbu_one for features of width {dim}", PREFIX)
    return model.eval().requires_grad_(False).to(device)


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.GELU(), nn.Dropout2d(0.1), nn.Conv2d(outputs, outputs, 1))


def _around(x: Tensor, radius: int) -> Iterator[Tensor]:
    """(B, C, H, W) as each of the places around sees it, row by row; reflected at the border, and repeated there where
    the map is too small for that."""
    height, width = x.shape[-2:]
    wide = F.pad(x, (radius,) * 4, mode="reflect" if min(height, width) > radius else "replicate")
    for top in range(2 * radius + 1):
        for left in range(2 * radius + 1):
            yield wide[..., top : top + height, left : left + width]
