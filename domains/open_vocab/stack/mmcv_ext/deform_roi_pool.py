"""RoIAlign whose bins are moved, each by an offset of its own.

Papers: "Deformable Convolutional Networks" (2017), arXiv 1703.06211; "Deformable ConvNets v2: More Deformable, Better
Results" (2018), arXiv 1811.11168.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .precision import as_compiled, widened
from .region_grid import Around, bins_of, channels_last, chunks_by_grid, sampled, samples_in


@as_compiled
def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill `output` (R, C, pooled_height, pooled_width) with the mean of each bin's samples.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), image index, x1, y1, x2, y2 in pixels of the image.
        offset: (R, 2, pooled_height, pooled_width) in widths and heights of the region, x then y; empty for none.
        spatial_scale: size of `input` over that of the image.
        sampling_ratio: samples per side of a bin; 0 for one per pixel.
        gamma: factor on the offsets.
    """
    moved = _MovedBins.of(rois, offset, (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    images, means = channels_last(widened(input)), output.permute(0, 2, 3, 1).flatten(0, 2).clone()
    for chunk, y, x in moved.samples(input.shape[1]):
        means[chunk] = sampled(images, moved.index[chunk], y, x).mean(dim=(1, 2)).to(means.dtype)
    output.copy_(means.view(len(rois), pooled_height, pooled_width, -1).permute(0, 3, 1, 2))


@as_compiled
def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add to `grad_input` and `grad_offset`, of the shapes of `input` and `offset`.

    In the outermost half pixel, where a sample is drawn from the border, its offset's gradient goes on as if the two
    pixels beside the border did, as that of the compiled operator does.
    """
    moved = _MovedBins.of(rois, offset, (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    images, gradients = channels_last(widened(input)), widened(grad_output).permute(0, 2, 3, 1).flatten(0, 2)
    total, pull = torch.zeros_like(images), images.new_zeros(len(moved.index), 2)
    for chunk, y, x in moved.samples(input.shape[1]):
        gradient = gradients[chunk, None, None] / (y.shape[1] * x.shape[1])  # (bins, 1, 1, C) of each sample
        around = Around(images.shape, moved.index[chunk], y, x)
        around.spread(gradient, total)
        pull[chunk] = torch.stack([(slope * gradient).sum(dim=(1, 2, 3)) for slope in around.slopes(images)], dim=1)
    grad_input.add_(total.permute(0, 3, 1, 2))
    if offset.numel():
        per_bin = (pull * moved.reach).view(len(rois), pooled_height, pooled_width, 2)
        grad_offset.add_(per_bin.permute(0, 3, 1, 2).to(grad_offset.dtype))


@dataclass(frozen=True)
class _MovedBins:
    """The bins of all regions, one after the other (N = R * pooled_height * pooled_width), each where it was moved to.

    Args:
        index: (N,) of the image.
        start: (N, 2) first row and column, in pixels of the features.
        size: (N, 2) rows and columns, likewise.
        reach: (N, 2) by how many pixels an offset of 1 moves it, x then y.
        grids: (N, 2) samples along rows and columns.
    """

    index: Tensor
    start: Tensor
    size: Tensor
    reach: Tensor
    grids: Tensor

    @classmethod
    def of(cls, rois: Tensor, offset: Tensor, size, scale: float, sampling_ratio: int, gamma: float) -> _MovedBins:
        regions, (rows, columns) = widened(rois), size
        start, bins = bins_of(regions, size, scale, aligned=True)
        reach = (bins * bins.new_tensor(size)).flip(1) * gamma  # (R, 2), x then y
        laid = torch.meshgrid(*(torch.arange(n, device=rois.device) for n in size), indexing="ij")
        first = start[:, None, None] + torch.stack(laid, dim=-1) * bins[:, None, None]  # (R, rows, columns, 2)
        if offset.numel():
            first = first + (widened(offset).permute(0, 2, 3, 1) * reach[:, None, None]).flip(-1)
        grids = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
        each = [part.repeat_interleave(rows * columns, dim=0) for part in (regions[:, 0], bins, reach, grids)]
        return cls(each[0].long(), first.flatten(0, 2), each[1], each[2], each[3].long().clamp(min=0))

    def samples(self, channels: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields (bins, rows (bins, Y), columns (bins, X)) of samples; bins without a sample are left out."""
        for chunk, rows, columns in chunks_by_grid(self.grids, channels):
            if rows * columns:
                y, x = (
                    samples_in(self.start[chunk, axis], self.size[chunk, axis], 1, grid)[:, 0]
                    for axis, grid in enumerate((rows, columns))
                )
                yield chunk, y, x
