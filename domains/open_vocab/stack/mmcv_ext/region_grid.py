"""What operators over regions share: regions of like size together, a bounded number of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator

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
