"""Cropped positional embeddings: in training, an image is taken for a region of a larger, unseen one.

Region-Aware Pretraining for Open-Vocabulary Object Detection with Vision Transformers (RO-ViT), 2023, arXiv
2305.07011. The grid of positions is up-sampled to what detectors see; a random region of it, brought back to the grid
of the image, stands for the positions of the whole.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..backbones.checkpoints import resize_positions
from ..backbones.positions import ImagePositions

TRIES = 10  # regions drawn for an image until one fits, as in random resized crops


class CroppedPositions:
    """A forward hook on what gives the patches: while that is in train mode, it makes up for the positions that are
    added next. Each image has its own region, drawn from torch's generator of the CPU.

    Args:
        positions: of the image tower.
        fine_grid: side of the up-sampled grid.
        scale: lowest and highest share of its area that a region has.
        aspect: lowest and highest width over height of a region.
    """

    def __init__(
        self, positions: ImagePositions, fine_grid: int, scale: tuple[float, float], aspect: tuple[float, float]
    ):
        self.positions, self.fine_grid, self.scale, self.aspect = positions, fine_grid, scale, aspect

    def __call__(self, module: nn.Module, inputs: tuple, patches: Tensor) -> Tensor | None:
        if not module.training:
            return None
        grid, prefix = (patches.shape[-2], patches.shape[-1]), self.positions.prefix
        with torch.autocast(patches.device.type, enabled=False):
            table = self.positions.table.float()  # (prefix + P, W)
            usual = resize_positions(table, grid, prefix)[prefix:]  # (h * w, W)
            regions = random_regions(len(patches), self.scale, self.aspect).to(patches.device)
            cropped = crop_grid(table[prefix:], regions, grid, self.fine_grid)  # (B, h * w, W)
            change = (cropped - usual).transpose(1, 2).unflatten(2, grid)  # (B, W, h, w)
        return patches + change.to(patches.dtype)


def random_regions(count: int, scale: tuple[float, float], aspect: tuple[float, float]) -> Tensor:
    """(count, 4): top, left, height and width of regions of the unit square; the whole where none of the tries fits.

    Args:
        scale: range of their areas, drawn uniformly.
        aspect: range of their width over height, whose logarithm is drawn uniformly.
    """
    drawn = torch.rand(count, 2 * TRIES + 2)  # at once, so that parts of a batch draw what the whole would
    areas = scale[0] + (scale[1] - scale[0]) * drawn[:, :TRIES]
    lowest, highest = (math.log(end) for end in aspect)
    aspects = (lowest + (highest - lowest) * drawn[:, TRIES:-2]).exp()
    heights, widths = (areas / aspects).sqrt(), (areas * aspects).sqrt()
    fits = (heights <= 1) & (widths <= 1)  # (count, tries)
    first = fits.int().argmax(dim=1, keepdim=True)
    sides = torch.cat([each.gather(1, first) for each in (heights, widths)], dim=1)  # (count, 2)
    sides = torch.where(fits.any(dim=1, keepdim=True), sides, 1.0)
    return torch.cat([drawn[:, -2:] * (1 - sides), sides], dim=1)


def crop_grid(table: Tensor, regions: Tensor, grid: tuple[int, int], fine_grid: int) -> Tensor:
    """Regions of a square grid that is up-sampled first, resampled to another grid, both bilinearly.

    Args:
        table: (P, W), the square grid row by row.
        regions: (B, 4), of `random_regions`.
        grid: (h, w).
        fine_grid: side of the up-sampled grid.

    Returns:
        (B, h * w, W)
    """
    side = round(len(table) ** 0.5)
    up = _bilinear(_centres(fine_grid, table), side)  # (fine, side)
    axes = []
    for axis, cells in enumerate(grid):
        start, length = regions[:, axis, None], regions[:, axis + 2, None]
        axes.append(_bilinear(start + length * _centres(cells, table), fine_grid) @ up)  # (B, cells, side)
    weights = torch.einsum("bir,bjc->bijrc", *axes)  # the share of each position in each cell
    return weights.reshape(len(regions), grid[0] * grid[1], side * side) @ table


def _centres(cells: int, like: Tensor) -> Tensor:
    """(cells,): middles of equal parts of 0 to 1."""
    return (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) / cells


def _bilinear(places: Tensor, cells: int) -> Tensor:
    """(...) places in 0 to 1 -> (..., cells): how much each of `cells` equal parts counts at a place."""
    index = (places * cells - 0.5).clamp(0, cells - 1)
    steps = torch.arange(cells, device=places.device, dtype=places.dtype)
    return (1 - (index[..., None] - steps).abs()).clamp(min=0)
