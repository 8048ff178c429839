"""Finished rows of a map that is made from north to south, kept so that a killed process goes on behind them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....core.errors import DataError
from ....core.runtime import write_whole
from .scores import SCORED


@dataclass(frozen=True)
class Strips:
    """Strips of a map in a work folder, a file each: from where a row of windows begins to where the next one does.

    Args:
        folder: of `work_folders`.
        tops: first row of each strip.
        height, width: of the map.
        bands: of it.
        kind: numpy type of its values.
    """

    folder: Path
    tops: Sequence[int]
    height: int
    width: int
    bands: int
    kind: type[np.generic]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and (bands, rows, width) values of each strip.

        Raises:
            DataError: one is lacking, or damaged.
        """
        for row, top in enumerate(self.tops):
            values = self.read(row)
            if values is None:
                raise DataError(f"{self._file(row)}: cannot be read; run the same command again")
            yield top, values

    def read(self, row: int) -> np.ndarray | None:
        """(bands, rows, width) values; None where they are not there, or damaged."""
        with suppress(OSError, zlib.error, ValueError):
            values = np.frombuffer(zlib.decompress(self._file(row).read_bytes()), self.kind)
            return values.reshape(self.bands, self.end(row) - self.tops[row], self.width)
        return None

    def write(self, row: int, values: np.ndarray) -> None:
        write_whole(self._file(row), zlib.compress(np.ascontiguousarray(values, self.kind).tobytes(), 1))

    def end(self, row: int) -> int:
        """The first row behind a strip."""
        return [*self.tops, self.height][row + 1]

    def lacking(self) -> int:
        """The first strip that is not there; their number where all are."""
        return next((row for row in range(len(self.tops)) if self.read(row) is None), len(self.tops))

    def _file(self, row: int) -> Path:
        return self.folder / f"{SCORED}{row:05d}"


def first_reaching(tops: Sequence[int], first: int, high: int) -> int:
    """The first row of windows, `high` pixels each, that reach into the strip `first`; `first` where all are there."""
    if first == len(tops):
        return first
    return next(row for row, top in enumerate(tops) if top + high > tops[first])
