"""Walking over all pairs of rows a block at a time, so that the N x N matrix is never held."""

from __future__ import annotations

from collections.abc import Iterator

ENTRIES = 1 << 22
"""Entries of one block: 16 MiB in float32, large enough for matrix products to run at full speed."""


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of 0..rows, each of which makes a block of about `ENTRIES` entries with all columns."""
    height = max(1, ENTRIES // max(1, columns))
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))
