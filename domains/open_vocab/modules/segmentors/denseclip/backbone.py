"""The image tower of DenseCLIP: maps of four scales, and the last one pooled at every place.

DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518),
section 3.2: CLIP's attention pool is kept, and what it makes of each place is kept with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from ......core.contracts import require
from ......registry import MODELS
from ...backbones.image_part import ImagePart, whole_patches

STRIDES = (4, 8, 16, 32)
DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1)
"""Where a vision transformer is tapped: after 4, 6, 8 and 12 of 12 blocks."""
PROBE = 64


@MODELS.register_module()
class DenseCLIPBackbone(BaseModule):
    """An image tower of ours, trained with the model; its text tower stays outside.

    A tower with a pyramid (CLIP's ResNet, embedded) gives its own four maps. A vision transformer gives its patches
    after some of its blocks, each brought to its stride by norms, transposed convolutions and max-pooling as released.

    Args:
        backbone: spec. Pixels come in normalised, of any size that the tower takes.
        out_indices: blocks of a vision transformer after which patches are taken, four of them, the last one last;
            None is after a third, a half, two thirds and all.
        norm_cfg: norm between transposed convolutions, of mm's norms. Released: SyncBN.
        norm_eval: batch norms of the tower keep their statistics in training. Released: they do not.
        frozen: the tower is not trained.
        drop_path: share of samples that skip the last block in training, 0 to below 1; it grows from 0 at the first
            one. Released for vision transformers: 0.1, there drawn for attention and MLP apart.

    Attributes:
        embed_dim: D, the width of the shared space.
        out_channels: of the four maps.
        score_level: the map whose places are those of `forward`'s last part, or nearest to them.

    Raises:
        CapabilityError: the tower has no maps. ConfigError: an option is not usable.
    """

    def __init__(
        self,
        backbone: str,
        out_indices: Sequence[int] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        norm_eval: bool = False,
        frozen: bool = False,
        drop_path: float = 0.0,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        require(0 <= drop_path < 1, "drop_path", drop_path, "give 0 to below 1")
        self.part = ImagePart(backbone, trainable=not frozen, norm_eval=norm_eval)
        tower = self.part.backbone
        tower.need("feature_maps")
        self.drop_path, self.embed_dim = drop_path, tower.embed_dim
        if "image_blocks" in tower.capabilities:
            self.stops = _stops(out_indices, len(tower.blocks("image")))
            width = tower.blocks("image")[0].ln_1.weight.shape[0]
            self.out_channels = [width] * len(STRIDES)
            norm = norm_cfg or {"type": "BN"}
            self.pyramid = nn.ModuleList(_scaled(width, tower.image_stride / stride, norm) for stride in STRIDES)
            self.score_level = min(range(len(STRIDES)), key=lambda i: abs(math.log2(tower.image_stride / STRIDES[i])))
        else:
            require(out_indices is None, "out_indices", out_indices, "omit it: this tower has no blocks")
            require(not drop_path, "drop_path", drop_path, "omit it: this tower has no blocks")
            with torch.no_grad():
                maps = tower.feature_maps(torch.zeros(1, 3, PROBE, PROBE))
            self.stops, self.out_channels = None, [each.shape[1] for each in maps]
            self.score_level = len(maps) - 1

    def forward(self, pixels: Tensor) -> tuple[Tensor | tuple[Tensor, Tensor], ...]:
        """(B, 3, H, W) -> four maps, and (B, D) of the whole with (B, D, h, w) of the places."""
        maps, pooled, places = self._from_maps(pixels) if self.stops is None else self._from_blocks(pixels)
        return (*maps, (pooled, places))

    def _from_maps(self, pixels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        tower = self.part.backbone
        maps = tower.feature_maps(pixels)
        made = tower.pool_map(maps[-1])  # (B, 1 + P, D)
        return maps, made[:, 0], _as_map(made[:, 1:], maps[-1].shape[2:])

    def _from_blocks(self, pixels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        tower, pixels = self.part.backbone, whole_patches(self.part.backbone, pixels)
        grid = tower.image_grid(pixels)
        x, start, maps = tower.embed_image(pixels), 0, []
        for stop, scale in zip(self.stops, self.pyramid):
            x, start = self._run(x, start, stop), stop
            maps.append(scale(_as_map(x[:, tower.image_prefix :], grid)))
        return maps, tower.pool_image(x, normalize=False), _as_map(tower.project_patches(x), grid)

    def _run(self, x: Tensor, start: int, stop: int) -> Tensor:
        tower = self.part.backbone
        if not (self.training and self.drop_path):
            return tower.run_blocks("image", x, start, stop)
        for block in range(start, stop):
            skipped = self.drop_path * block / max(1, self.stops[-1] - 1)
            kept = (torch.rand(len(x), 1, 1, device=x.device) >= skipped).to(x.dtype) / (1 - skipped)
            x = x + kept * (tower.run_blocks("image", x, block, block + 1) - x)
        return x


def _stops(out_indices: Sequence[int] | None, depth: int) -> list[int]:
    if out_indices is None:
        return [max(1, round(share * depth)) for share in DEPTHS]
    stops = [index + 1 for index in out_indices]
    usable = len(stops) == len(STRIDES) and stops == sorted(stops) and stops[0] >= 1 and stops[-1] == depth
    require(usable, "out_indices", list(out_indices), f"give four blocks in ascending order, the last one {depth - 1}")
    return stops


def _scaled(width: int, factor: float, norm_cfg: dict) -> nn.Sequential:
    """A group norm, then what makes a map `factor` times as large."""
    octaves = round(math.log2(factor))
    layers: list[nn.Module] = [nn.GroupNorm(1, width)]
    for octave in range(max(0, octaves)):
        if octave:
            layers += [build_norm_layer(norm_cfg, width)[1], nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
    if octaves < 0:
        layers.append(_Shrunk(2**-octaves))
    return nn.Sequential(*layers)


class _Shrunk(nn.MaxPool2d):
    """Max-pooling that leaves at least one place."""

    def __init__(self, side: int):
        super().__init__(kernel_size=side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.kernel_size:
            return F.adaptive_max_pool2d(x, tuple(max(1, side // self.kernel_size) for side in x.shape[2:]))
        return super().forward(x)


def _as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, P, W) -> (B, W, h, w)."""
    return tokens[:, : grid[0] * grid[1]].transpose(1, 2).unflatten(2, tuple(grid))
