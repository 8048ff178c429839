"""RoIAlign of rotated regions, from "Learning RoI Transformer for Detecting Oriented Objects in Aerial Images" (2018),
arXiv 1812.00155.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .precision import as_compiled, widened
from .region_grid import Around, channels_last, chunks_by_grid, sampled


@as_compiled
def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Fill `output` (R, C, pooled_height, pooled_width) with the mean of each bin's samples.

    Args:
        input: (B, C, H, W).
        rois: (R, 6), image index, x and y of the centre, width and height in pixels of the image, angle in radians.
        spatial_scale: size of `input` over that of the image.
        sampling_ratio: samples per side of a bin; 0 for one per pixel.
        aligned: coordinates mean pixel corners, not centres.
        clockwise: the angle goes from x to y, not from y to x.
    """
    images, size = channels_last(widened(input)), (pooled_height, pooled_width)
    means = images.new_zeros(len(rois), *size, images.shape[3])
    for chunk, index, y, x in _samples(rois, size, images.shape[3], spatial_scale, sampling_ratio, aligned, clockwise):
        means[chunk] = sampled(images, index, y, x).view(len(chunk), *size, -1, images.shape[3]).mean(dim=3)
    output.copy_(means.permute(0, 3, 1, 2))


@as_compiled
def roi_align_rotated_backward(
    top_grad: Tensor,
    rois: Tensor,
    bottom_grad: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Fill `bottom_grad` (B, C, H, W) from `top_grad` (R, C, pooled_height, pooled_width)."""
    gradients, size = widened(top_grad).permute(0, 2, 3, 1), (pooled_height, pooled_width)
    batch, channels, height, width = bottom_grad.shape
    total = gradients.new_zeros(batch, height, width, channels)
    for chunk, index, y, x in _samples(rois, size, channels, spatial_scale, sampling_ratio, aligned, clockwise):
        each = gradients[chunk].flatten(0, 2)  # (bins, C)
        per_bin = len(y) // max(1, len(each))
        each = (each / per_bin).repeat_interleave(per_bin, dim=0)
        Around(total.shape, index, y, x).spread(each[:, None, None], total)
    bottom_grad.copy_(total.permute(0, 3, 1, 2))


def _samples(
    rois: Tensor,
    size: tuple[int, int],
    channels: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yields (regions, image of each sample (S,), its row (S, 1), its column (S, 1)), bin by bin of each region.

    Regions without a sample are left out.
    """
    regions = widened(rois)
    centre = regions[:, [2, 1]] * scale - (0.5 if aligned else 0.0)
    extent = regions[:, [4, 3]] * scale if aligned else (regions[:, [4, 3]] * scale).clamp(min=1)
    angle = -regions[:, 5] if clockwise else regions[:, 5]
    grids = extent / extent.new_tensor(size)
    grids = torch.full_like(grids, sampling_ratio) if sampling_ratio > 0 else grids.ceil()
    for chunk, *grid in chunks_by_grid(grids.long().clamp(min=0), channels * size[0] * size[1]):
        if grid[0] * grid[1] == 0:
            continue
        rows, columns = (  # (n, bins, samples) from the centre, before it is turned
            (_shares(bins, samples, regions) - 0.5) * extent[chunk, axis, None, None]
            for axis, (bins, samples) in enumerate(zip(size, grid, strict=True))
        )
        down, right = rows[:, :, None, :, None], columns[:, None, :, None, :]
        cosine, sine = (turn(angle[chunk])[:, None, None, None, None] for turn in (torch.cos, torch.sin))
        y = down * cosine - right * sine + centre[chunk, 0, None, None, None, None]  # (n, height, width, rows, columns)
        x = down * sine + right * cosine + centre[chunk, 1, None, None, None, None]
        index = regions[chunk, 0].long().repeat_interleave(y[0].numel())
        yield chunk, index, y.reshape(-1, 1), x.reshape(-1, 1)


def _shares(bins: int, samples: int, like: Tensor) -> Tensor:
    """(bins, samples): where along a side samples lie, from 0 to 1."""
    return ((torch.arange(bins * samples, device=like.device, dtype=like.dtype) + 0.5) / (bins * samples)).view(
        bins, -1
    )
