"""RoIAlign with averaged or largest samples, from "Mask R-CNN" (2017), arXiv 1703.06870."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from .precision import as_compiled, widened
from .region_grid import bins_of, channels_last, chunks_by_grid, corners, in_bins, sampled, samples_in

MAX_POOL, MEAN_POOL = 0, 1
# The compiled operator's start of its search for the largest sample; a bin without samples keeps it.
LOWEST = -10000.0


@as_compiled
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output` (R, C, aligned_height, aligned_width), and with pool_mode 0 where its samples were taken.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), image index, x1, y1, x2, y2 in pixels of the image.
        argmax_y: (R, C, aligned_height, aligned_width) in pixels of `input`; -1 where nothing was sampled.
        argmax_x: likewise.
        spatial_scale: size of `input` over that of the image.
        sampling_ratio: samples per side of a bin; 0 for one per pixel.
        pool_mode: 0 the largest sample, 1 their mean.
        aligned: coordinates mean pixel corners, not centres.
    """
    features, size = widened(input), (aligned_height, aligned_width)
    regions = rois.to(features.dtype)
    if pool_mode == MEAN_POOL:
        output.copy_(torchvision.ops.roi_align(features, regions, size, spatial_scale, sampling_ratio, aligned))
        return
    images, index = channels_last(features), regions[:, 0].long()
    start, bins = bins_of(regions, size, spatial_scale, aligned)
    grids = bins.ceil().long().clamp(min=0) if sampling_ratio <= 0 else torch.full_like(bins, sampling_ratio).long()
    for chunk, rows, columns in chunks_by_grid(grids, input.shape[1] * size[0] * size[1]):
        y = samples_in(start[chunk, 0], bins[chunk, 0], size[0], rows)
        x = samples_in(start[chunk, 1], bins[chunk, 1], size[1], columns)
        largest = _largest(sampled(images, index[chunk], y.flatten(1), x.flatten(1)), y, x)
        for filled, part in zip((output, argmax_y, argmax_x), largest, strict=True):
            filled[chunk] = part.permute(0, 3, 1, 2).to(filled.dtype)


@as_compiled
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `grad_input` (B, C, H, W) from `grad_output` (R, C, aligned_height, aligned_width)."""
    gradient = widened(grad_output)
    if pool_mode == MEAN_POOL:
        size, regions = (aligned_height, aligned_width), rois.to(gradient.dtype)
        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                gradient, regions, spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned
            )
        )
        return
    grad_input.copy_(_scattered(gradient, rois[:, 0].long(), widened(argmax_y), widened(argmax_x), grad_input.shape))


def _largest(samples: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(R, height, width, C) each: the largest sample of a bin, and its row and column coordinate."""
    (_, height, rows), (_, width, columns) = y.shape, x.shape
    if rows * columns == 0:
        nowhere = samples.new_full((len(samples), height, width, samples.shape[3]), -1.0)
        return torch.full_like(nowhere, LOWEST), nowhere, nowhere
    largest, place = in_bins(samples, height, width).max(dim=3)  # (R, height, width, C)
    at_y = y[:, :, None].expand(-1, -1, width, -1).gather(3, place // columns)
    at_x = x[:, None].expand(-1, height, -1, -1).gather(3, place % columns)
    inside = largest > LOWEST
    return largest.clamp(min=LOWEST), at_y.where(inside, -1.0), at_x.where(inside, -1.0)


def _scattered(gradient: Tensor, index: Tensor, y: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
    """(B, C, H, W): each gradient spread over the four pixels beside its sample (y, x)."""
    row, column = corners(y, shape[2]), corners(x, shape[3])
    plane = index[:, None] * shape[1] + torch.arange(shape[1], device=index.device)  # (R, C)
    taken = row.inside & column.inside & ~((y == -1) & (x == -1))
    total = gradient.new_zeros(shape).flatten()
    for rows, down in ((row.low, 1 - row.share), (row.high, row.share)):
        for columns, right in ((column.low, 1 - column.share), (column.high, column.share)):
            where = (plane[:, :, None, None] * shape[2] + rows) * shape[3] + columns
            total.index_add_(0, where.flatten(), (gradient * down * right * taken).flatten())
    return total.view(shape)
