"""What operators over regions share: regions of like size together, a bounded number of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MAX_SAMPLES = 2**18


def chunks_by_grid(grids: Tensor, samples_per_cell: int) -> Iterator[tuple[Tensor, int, int]]:
    """Yields (indices of regions, rows, columns): regions with one grid, at most MAX_SAMPLES samples a chunk.

    Args:
        grids: (R, 2) int64, rows and columns of samples a bin.
        samples_per_cell: samples a region has for each cell of its grid: channels times bins.
    """
    for grid in grids.unique(dim=0):
        rows, columns = grid.tolist()
        regions = (grids == grid).all(dim=1).nonzero()[:, 0]
        yield from (
            (chunk, rows, columns)
            for chunk in regions.split(max(1, MAX_SAMPLES // max(1, samples_per_cell * rows * columns)))
        )


def pixels_of(images: Tensor, index: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(R, Y, X, C): of image `index` (R,) the pixels at `rows` (R, Y) and `columns` (R, X).

    Args:
        images: (B, H, W, C), channels last, so that one pixel is one stretch of memory.
    """
    height, width = images.shape[1:3]
    pixels = (index[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    return images.flatten(0, 2).index_select(0, pixels.flatten()).unflatten(0, pixels.shape)


def channels_last(images: Tensor) -> Tensor:
    """(B, H, W, C) of (B, C, H, W)."""
    return images.permute(0, 2, 3, 1).contiguous()


def in_bins(samples: Tensor, height: int, width: int) -> Tensor:
    """(R, height, width, rows columns, C) of (R, height rows, width columns, C)."""
    return samples.unflatten(2, (width, -1)).unflatten(1, (height, -1)).transpose(2, 3).flatten(3, 4)


class Corners(NamedTuple):
    """Along one axis, the pixels beside each coordinate, the second one's share, and whether it counts at all."""

    low: Tensor
    high: Tensor
    share: Tensor
    inside: Tensor


def bins_of(regions: Tensor, size: tuple[int, int], scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """(R, 2) each, rows and columns: where regions start, in pixels of the features, and how large a bin is."""
    shift = 0.5 if aligned else 0.0
    start = regions[:, [2, 1]] * scale - shift
    extent = regions[:, [4, 3]] * scale - shift - start
    if not aligned:
        extent = extent.clamp(min=1)
    return start, extent / extent.new_tensor(size)


def samples_in(start: Tensor, bin_size: Tensor, bins: int, grid: int) -> Tensor:
    """(R, bins, grid) coordinates of the samples along one axis."""
    first = start[:, None] + torch.arange(bins, device=start.device) * bin_size[:, None]  # (R, bins)
    within = (torch.arange(grid, device=start.device) + 0.5) * bin_size[:, None] / max(grid, 1)  # (R, grid)
    return first[:, :, None] + within[:, None, :]


def corners(coordinate: Tensor, size: int) -> Corners:
    inside = (coordinate >= -1) & (coordinate <= size)
    coordinate = coordinate.clamp(0, size - 1)
    low = coordinate.long()
    return Corners(low, (low + 1).clamp(max=size - 1), coordinate - low, inside)


def sampled(images: Tensor, index: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(R, Y, X, C) bilinear samples of image `index` (R,) at rows `y` (R, Y) and columns `x` (R, X)."""
    row, column = corners(y, images.shape[1]), corners(x, images.shape[2])
    down, right = row.share[:, :, None, None], column.share[:, None, :, None]
    top, bottom = (
        pixels_of(images, index, rows, column.low) * (1 - right) + pixels_of(images, index, rows, column.high) * right
        for rows in (row.low, row.high)
    )
    inside = row.inside[:, :, None, None] & column.inside[:, None, :, None]
    return (top * (1 - down) + bottom * down) * inside


class Around:
    """The four pixels around samples in rows `y` (N, Y) and columns `x` (N, X) of images of (B, H, W, C)."""

    def __init__(self, shape: torch.Size, index: Tensor, y: Tensor, x: Tensor):
        self.shape, self.index, self.y, self.x = shape, index, y, x
        self.row, self.column = corners(y, shape[1]), corners(x, shape[2])
        self.inside = (self.row.inside[:, :, None] & self.column.inside[:, None, :])[..., None]  # (N, Y, X, 1)

    def spread(self, gradient: Tensor, total: Tensor) -> None:
        """Add (N, 1, 1, C) gradients of the samples to those of the pixels, by their shares."""
        flat = total.flatten(0, 2)
        for rows, down in ((self.row.low, 1 - self.row.share), (self.row.high, self.row.share)):
            for columns, right in ((self.column.low, 1 - self.column.share), (self.column.high, self.column.share)):
                share = down[:, :, None, None] * right[:, None, :, None] * self.inside
                pixels = (self.index[:, None, None] * self.shape[1] + rows[:, :, None]) * self.shape[2]
                pixels = (pixels + columns[:, None, :]).flatten()
                flat.index_add_(0, pixels, (gradient * share).flatten(0, 2))

    def slopes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Y, X, C) each: how much a sample grows per pixel to the right, and down."""
        (top_left, top_right), (bottom_left, bottom_right) = (
            [pixels_of(images, self.index, rows, columns) for columns in (self.column.low, self.column.high)]
            for rows in (self.row.low, self.row.high)
        )
        down, up = (self.y - self.row.low)[:, :, None, None], (self.row.high - self.y)[:, :, None, None]
        right, left = (self.x - self.column.low)[:, None, :, None], (self.column.high - self.x)[:, None, :, None]
        to_right = (bottom_right - bottom_left) * down + (top_right - top_left) * up
        to_bottom = (bottom_right - top_right) * right + (bottom_left - top_left) * left
        return to_right * self.inside, to_bottom * self.inside
