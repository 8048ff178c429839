"""The map of a sentence over a large picture: windows of several sides, each compared with it, averaged per pixel.

"Learning to Evaluate Performance of Multi-modal Semantic Localization" (Yuan et al., 2022, arXiv 2209.06515), its map
of windows of 256, 512 and 768 pixels. Two things differ from the released code. A side larger than the picture is left
out, where that code cuts from a negative place on; and windows and maps are not stored as JPEG in between.

The mean is constant between the borders of windows, so it is kept as one value per cell of the grid of these borders:
memory does not grow with the picture, whose rows are made a strip at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ....core.contracts import option, settle
from ....core.errors import ConfigError, DataError

SIDES = (256, 512, 768)
LEAST_SIDE, MOST_SIDE = 8, 8192
MEDIAN = 251
HIGHEST = 255
STRIP_ROWS = 1024
FLAT = 1e-9
"""A range of mean cosines below this is rounding: nothing stands out."""


class TooSmall(DataError):
    """A picture smaller than all windows."""


def windows_of(height: int, width: int, sides: Sequence[int] = SIDES) -> np.ndarray:
    """Distinct windows over a picture: for each side k one grid of step k from 0, and one from k - k // 2; a window
    that would end at the border or beyond is moved back to end there.

    Args:
        height, width: of the picture in pixels.
        sides: of the windows in pixels; those larger than the picture are left out.

    Returns:
        (N, 4) int64: first row, end row, first column, end column, sorted.

    Raises:
        TooSmall: no side fits.
    """
    windows = set()
    for side in sides:
        if side > min(height, width):
            continue
        for offset in (0, side - side // 2):
            rows, columns = (_starts(length, side, offset) for length in (height, width))
            windows |= {(row, row + side, column, column + side) for row in rows for column in columns}
    if not windows:
        raise TooSmall(f"{width} x {height} pixels are less than a window of {min(sides)}; give smaller --sides")
    return np.array(sorted(windows), np.int64)


@dataclass(frozen=True)
class SentenceHeatMap:
    """How well each pixel of a picture fits a sentence, from 0 to 255.

    Args:
        rows, columns: borders of the cells, from 0 to height and from 0 to width.
        cells: (R, C) uint8, before the median filter; 0 where no window lies.
        covered: (R, C) bool, where a window lies.
        median: side of the median filter in pixels, odd; 1 for none.
    """

    rows: np.ndarray
    columns: np.ndarray
    cells: np.ndarray
    covered: np.ndarray
    median: int = MEDIAN

    @classmethod
    def of(
        cls, size: tuple[int, int], windows: np.ndarray, cosines: np.ndarray, median: int = MEDIAN
    ) -> SentenceHeatMap:
        """The map of windows compared with one sentence.

        Args:
            size: (height, width) of the picture.
            windows: (N, 4) as of `windows_of`.
            cosines: (N,) of each window with the sentence.
            median: side of the median filter in pixels.

        Raises:
            ConfigError: the filter's side is even or not positive.
        """
        check_median(median)
        rows, columns, mean = mean_cells(size, windows, cosines)
        covered = np.isfinite(mean)
        lowest, highest = mean[covered].min(), mean[covered].max()
        above = np.where(covered, mean - lowest, 0)
        unit = above / (highest - lowest) if highest - lowest > FLAT else np.zeros_like(above)
        return cls(rows, columns, (HIGHEST * unit).astype(np.uint8), covered, median)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.rows[-1]), int(self.columns[-1])

    def before_filter(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, W) uint8: rows before the median filter."""
        return self._spread(self.cells, top, bottom)

    def strips(self, rows: int = STRIP_ROWS) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The whole picture, some rows at a time.

        Yields:
            first row; (h, W) uint8 after the filter; (h, W) bool, where a window lies.
        """
        import cv2

        height, _ = self.size
        halo = self.median // 2
        for top in range(0, height, rows):
            bottom, start = min(top + rows, height), max(top - halo, 0)
            seen = self.before_filter(start, min(bottom + halo, height))
            filtered = cv2.medianBlur(seen, self.median) if self.median > 1 else seen  # replicates its border
            yield top, filtered[top - start : bottom - start], self._spread(self.covered, top, bottom)

    def whole(self) -> np.ndarray:
        """(H, W) uint8 after the filter, for pictures that fit into memory."""
        return np.concatenate([rows for _, rows, _ in self.strips()])

    def _spread(self, cells: np.ndarray, top: int, bottom: int) -> np.ndarray:
        of_row = np.searchsorted(self.rows, np.arange(top, bottom), side="right") - 1
        of_column = np.searchsorted(self.columns, np.arange(self.size[1]), side="right") - 1
        return np.ascontiguousarray(cells[of_row][:, of_column])


def mean_cells(
    size: tuple[int, int], windows: np.ndarray, cosines: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean cosine of the windows over each cell of the grid of their borders.

    Args:
        size, windows, cosines: as of `SentenceHeatMap.of`.

    Returns:
        borders of rows (R + 1,) and of columns (C + 1,); (R, C) float64, NaN where no window lies.
    """
    height, width = size
    rows = np.unique(np.concatenate([windows[:, :2].ravel(), (0, height)]))
    columns = np.unique(np.concatenate([windows[:, 2:].ravel(), (0, width)]))
    places = np.column_stack([np.searchsorted(rows, windows[:, :2]), np.searchsorted(columns, windows[:, 2:])])
    total = np.zeros((len(rows) - 1, len(columns) - 1))
    count = np.zeros_like(total)
    for (top, bottom, left, right), cosine in zip(places, np.asarray(cosines, np.float64), strict=True):
        total[top:bottom, left:right] += cosine
        count[top:bottom, left:right] += 1
    return rows, columns, np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def check_median(side: int) -> None:
    """Refuse a side of the filter that has no middle.

    Raises:
        ConfigError: it is even or not positive.
    """
    if side < 1 or side % 2 == 0:
        raise ConfigError(f"--median {side}: give an odd number of pixels; 1 filters nothing")


def check_sides(value: str | Sequence[int]) -> tuple[int, ...]:
    """ "256,512" -> (256, 512).

    Raises:
        ConfigError: other than numbers of pixels.
    """
    try:
        sides = tuple(int(side) for side in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        sides = ()
    if not sides or not all(LEAST_SIDE <= side <= MOST_SIDE for side in sides):
        raise ConfigError(f"sides of windows: give {LEAST_SIDE} to {MOST_SIDE} pixels, for instance 256,512,768")
    return sides


def _starts(length: int, side: int, offset: int) -> list[int]:
    return [start if start + side < length else length - side for start in range(offset, length, side)]


@dataclass(frozen=True, kw_only=True)
class HeatMapOptions:
    """What is looked for in a picture, and how its map is made."""

    text: str | None = option(None, "what to look for, in words; of an annotation only this of its sentences")
    annotation: str | None = option(
        None, "an anno.json with jpg_name, caption and points of regions, by which maps are scored", metavar="FILE"
    )
    sides: tuple[int, ...] | None = option(
        None, "sides of the windows in pixels; by default 256,512,768", parse=check_sides, metavar="N,N"
    )
    median: int = option(MEDIAN, f"side of the median filter in pixels; 1 for none, by default {MEDIAN}", metavar="N")
    even_odd: bool = option(False, "score overlapping regions with a hole, as the released code does")

    def __post_init__(self) -> None:
        settle(self, "localize")
        check_median(self.median)
        if self.text is None and self.annotation is None:
            raise ConfigError("nothing to look for: give --text, or an --annotation with sentences")
        if self.text is not None and not self.text.strip():
            raise ConfigError("--text is empty; write what to look for")
