"""A segment of an index, opened: rows that were written together and never change. Nothing of it is read before it is
needed; a segment that is removed meanwhile is still read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .columns import COLUMNS
from .entries import ENTRIES, OFFSETS, Entries, damaged, mapped_array
from .head import SEGMENTS, check_file
from .kinds import QUANTISED, as_type, memory_mapped, nearest, refining, rows_of

VECTORS, OLD_VECTORS = "vectors.faiss", "index.faiss"
"""Of a segment, and of a folder of format 1."""
ROWS = "rows.f16"
"""The rows as they were, of a quantised kind."""
PARTS, PART_COUNTS = "parts.f32", "parts.counts"
"""Features of the parts of each entry, and how many it has, where candidates are ranked again by these."""


class Segment:
    """Args:
        index: folder of the index.
        record: of the segment, in the head.
        first: number of its first row in the index.
        kind, dims: of the index.
        quantiser: that the segments share, opened, or None.

    Raises:
        DataError: a missing or damaged file.
    """

    def __init__(
        self, index: Path, record: Mapping[str, Any], first: int, kind: str, dims: int, quantiser: Any = None
    ) -> None:
        self.record, self.first, self.dims, self.count = record, first, dims, record["entries"]
        self.path = index / SEGMENTS / record["name"] if record["name"] else index
        self._vectors = VECTORS if record["name"] else OLD_VECTORS
        self._is_scanned = kind == "flat"
        self.check()
        try:
            self._index = memory_mapped(self.path / self._vectors, quantiser if kind in QUANTISED else None)
        except (RuntimeError, MemoryError) as error:
            raise damaged(self.path / self._vectors, "faiss cannot read it") from error
        if (self._index.ntotal, self._index.d) != (self.count, dims):
            raise damaged(self.path / self._vectors, f"holds {self._index.ntotal} rows of width {self._index.d}")
        self.entries = Entries(self.path, self.count)
        self._rows = self._opened_rows() if kind in QUANTISED else None
        self._bits = self._opened_bits()

    def check(self, whole: bool = False) -> None:
        """Check its files against what was written: sizes and beginnings, or all.

        Raises:
            DataError: one is missing or damaged.
        """
        files = dict.fromkeys((self._vectors, ENTRIES, OFFSETS, *self.record["files"]))
        for name in files:
            check_file(self.path / name, self.record["files"].get(name) or {}, whole)
        if (live := self.record.get("live")) is not None:
            check_file(self.path / live["file"], live, whole)

    @property
    def columns(self) -> Path:
        """The file of its columns."""
        return self.path / COLUMNS

    @property
    def deleted(self) -> int:
        """How many of its rows are."""
        live = self.record.get("live")
        return 0 if live is None else self.count - live["rows"]

    @cached_property
    def live(self) -> np.ndarray:
        """(N,) bool: the rows that are not deleted."""
        if self._bits is None:
            return np.ones(self.count, bool)
        return np.unpackbits(self._bits, count=self.count, bitorder="little").astype(bool)

    def nearest(
        self, queries: np.ndarray, count: int, rows: np.ndarray | None, share: float, cells: Any, refine: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and numbers in the index (Q, K) of the nearest rows, -1 where there is none.

        Args:
            queries: (Q, D).
            count: how many at most.
            rows: (N,) bool: those that are wanted; None for all that are not deleted.
            share: of the rows of the index that are wanted.
            cells: as of `kinds.nearest`.
            refine: of a quantised kind, that scores are those of the rows, not of their codes.
        """
        if self._is_scanned:
            # Have the system read the rows in one go: faiss maps files for looking here and there, page by page.
            self._is_scanned = False  # once is enough
            if hasattr(os, "posix_fadvise"):
                with suppress(FileNotFoundError), (self.path / self._vectors).open("rb") as file:  # replaced meanwhile
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        bits = self._bits if rows is None else np.packbits(rows, bitorder="little")
        if cells is None and bits is not None:  # a graph of its own
            share = float((self.live if rows is None else rows).mean())
        index = self._refining if refine else self._index
        scores, places = nearest(index, queries, min(count, self.count), bits, share, cells)
        return scores, np.where(places < 0, -1, places + self.first)

    @cached_property
    def _refining(self) -> Any:
        return refining(self._index, self._rows)

    def rows(self, places: np.ndarray) -> np.ndarray:
        """(n, D) float32 rows by their numbers in the segment."""
        if self._rows is None:
            return rows_of(self._index, places)
        return as_type(self._rows[places], np.float32)

    @cached_property
    def has_parts(self) -> bool:
        return PARTS in self.record["files"]

    def parts(self, places: Sequence[int]) -> list[np.ndarray]:
        """(T, D) float32 features of the parts of each row."""
        counts, ends, table = self._parts
        return [np.array(table[ends[place] - counts[place] : ends[place]]) for place in places]

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.fromfile(self.path / PART_COUNTS, "<u4").astype(np.int64)
        ends = counts.cumsum()
        if len(counts) != self.count or (self.path / PARTS).stat().st_size != 4 * self.dims * int(ends[-1]):
            raise damaged(self.path / PARTS, f"does not hold the parts of {self.count} entries")
        return counts, ends, mapped_array(self.path / PARTS, np.dtype("<f4"), (int(ends[-1]), self.dims))

    def _opened_rows(self) -> np.ndarray:
        path = self.path / ROWS
        if not path.is_file():
            raise DataError(f"{path}: missing; copy the whole folder, or make the index again")
        if path.stat().st_size != 2 * self.dims * self.count:
            raise damaged(path, f"does not hold {self.count} rows of width {self.dims}")
        return mapped_array(path, np.dtype("<f2"), (self.count, self.dims))

    def _opened_bits(self) -> np.ndarray | None:
        if (live := self.record.get("live")) is None:
            return None
        if (self.path / live["file"]).stat().st_size != -(-self.count // 8) or not isinstance(live.get("rows"), int):
            raise damaged(self.path / live["file"], f"does not tell of {self.count} rows which are deleted")
        return mapped_array(self.path / live["file"], np.dtype(np.uint8))
