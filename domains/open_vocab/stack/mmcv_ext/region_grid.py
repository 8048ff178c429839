"""What operators over regions share: regions of like size together, a bounded number of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

MAX_SAMPLES = 2**24


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
    """(R, C, Y, X): of image `index` (R,) the pixels at `rows` (R, Y) and `columns` (R, X)."""
    return images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
