"""Scores of overlapping windows as scores of pixels, row of windows by row of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..windows import starts_of_windows

LEAST_WEIGHT = 1e-6
"""Of a window's outermost pixels, so that those at a raster's border, which one window alone sees, have its score."""


class RowBlender:
    """Weighted means of windows' scores over `width` columns of a raster.

    Windows come from north to south; rows that no later window reaches are handed out and forgotten, so that memory is
    that of one row of windows, as far as `width` goes.

    Args:
        scores: how many scores a pixel has.
        width: in pixels.
    """

    def __init__(self, scores: int, width: int):
        self._sums = np.zeros((scores, 0, width), np.float32)
        self._weights = np.zeros((0, width), np.float32)
        self.top = 0
        """The first row that was not handed out yet."""

    def add(self, top: int, left: int, scores: np.ndarray, weights: np.ndarray) -> None:
        """Add a window.

        Args:
            top, left: its first row, not above `self.top`, and column.
            scores: (Q, h, w), or (Q, 1, 1) for a window that has one score.
            weights: (h, w).
        """
        height, width = weights.shape
        first, last = top - self.top, top - self.top + height
        if more := max(0, last - len(self._weights)):
            self._sums = np.pad(self._sums, ((0, 0), (0, more), (0, 0)))
            self._weights = np.pad(self._weights, ((0, more), (0, 0)))
        self._sums[:, first:last, left : left + width] += weights * scores
        self._weights[first:last, left : left + width] += weights

    def take(self, until: int) -> tuple[np.ndarray, np.ndarray]:
        """Hand out the rows from `self.top` to `until`, which no later window reaches.

        Returns:
            (Q, rows, width) means, 0 where no window was; (rows, width) bool, where one was.
        """
        rows = until - self.top
        if more := max(0, rows - len(self._weights)):
            self._sums = np.pad(self._sums, ((0, 0), (0, more), (0, 0)))
            self._weights = np.pad(self._weights, ((0, more), (0, 0)))
        sums, weights = self._sums[:, :rows], self._weights[:rows]
        seen = weights > 0
        means = np.divide(sums, weights, out=np.zeros_like(sums), where=seen)
        self._sums, self._weights = self._sums[:, rows:].copy(), self._weights[rows:].copy()
        self.top = until
        return means, seen


def raised_cosine(size: int, stride: int, margin: int = 0) -> np.ndarray:
    """(size - 2 margin,) float32 weights along one side of a window: 1 in its middle, and half a cosine down to its
    ends over what the next window covers too, as terratorch 1.2.13 blends (`tiled_inference`).

    Args:
        size: of the window; stride: from one to the next.
        margin: pixels at each end that are not used at all.
    """
    ramp = min(size // 2, size - stride) - margin
    weights = np.ones(size - 2 * margin, np.float32)
    if ramp > 0:
        fall = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, ramp + 1) / (ramp + 1))
        weights[:ramp], weights[-ramp:] = fall[::-1], fall
    return weights


def window_weights(size: tuple[int, int], stride: int, margin: int = 0) -> np.ndarray:
    """(h, w) float32 weights of a window: the outer product of `raised_cosine` down and along."""
    down, along = (raised_cosine(side, min(stride, side), margin) for side in size)
    return np.outer(down, along) + np.float32(LEAST_WEIGHT)


def blended(
    scores: np.ndarray,
    tops: Sequence[int],
    lefts: Sequence[int],
    weights: np.ndarray,
    height: int,
    columns: tuple[int, int],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Scores of pixels from one score per class and window, of some columns of a raster.

    Args:
        scores: (rows, columns, C) float32 of a grid of windows; NaN for a window without any.
        tops, lefts: where its rows and columns of windows begin.
        weights: (h, w) of a window.
        height: of the raster.
        columns: the first, and one after the last.

    Yields:
        First row, (C, rows, columns) scores and (rows, columns) bool where there are any: strips from north to south.
    """
    first, end = columns
    blender = RowBlender(scores.shape[2], end - first)
    near = [(number, left) for number, left in enumerate(lefts) if left < end and left + weights.shape[1] > first]
    for row, top in enumerate(tops):
        for number, left in near:
            if np.isfinite(scores[row, number]).all():
                shown = slice(max(first - left, 0), end - left)
                blender.add(top, max(left, first) - first, scores[row, number][:, None, None], weights[:, shown])
        begin = blender.top
        yield begin, *blender.take(tops[row + 1] if row + 1 < len(tops) else height)


def window_grid(height: int, width: int, size: int, stride: int) -> tuple[list[int], list[int], tuple[int, int]]:
    """Where rows and columns of windows begin, the last ones moved inside, and (height, width) of a window."""
    high, wide = min(size, height), min(size, width)
    return starts_of_windows(height, high, stride), starts_of_windows(width, wide, stride), (high, wide)
