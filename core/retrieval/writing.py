"""Segments being written: rows come a few at a time, and a segment is closed when it is large enough.

What memory holds does not grow with the number of rows beyond one segment, but for the kinds whose rows of one build
are one segment, which faiss builds in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..data.nearest import faiss_library
from .columns import COLUMNS, ColumnWriter
from .entries import ENTRIES, OFFSETS, Entry, EntryWriter
from .head import SEGMENTS, file_facts, synced
from .kinds import QUANTISED, WHOLE, as_type, built, empty_flat, sampled_rows, trained, written_codes
from .segments import PART_COUNTS, PARTS, ROWS, VECTORS
from .wanted import Facts

SEGMENT_BYTES, SEGMENT_ROWS = 1 << 30, 1 << 20
"""Of the rows of a segment, as float32; one that has reached either is closed, one of codes by its rows alone."""
SPOOL = "vectors"
QUANTISER = "quantiser-{}.faiss"


class SegmentsWriter:
    """Writes segments below a folder of an index.

    Args:
        folder: of the index.
        kind, dims: of the index.
        quantiser: that the index has already; None to train one.
        facts: of the entries that the index has already.
        graph_threads: as of `kinds.built`.
        number: of the first segment, which it is named by: the same rows make the same files.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        dims: int,
        quantiser: Any = None,
        facts: Facts | None = None,
        number: int = 1,
        graph_threads: int = 1,
    ):
        self.folder, self.kind, self.dims = folder, kind, dims
        self.facts, self.count, self.number, self.graph_threads = facts or Facts(), 0, number, graph_threads
        self.quantiser: dict[str, Any] | None = None
        self.shared, self._made = quantiser, []
        self._open: SegmentWriter | None = None
        self._spooled: list[SegmentWriter] = []
        self.records: list[dict[str, Any]] = []

    def add(self, rows: np.ndarray, entries: Sequence[Entry], parts: Sequence[np.ndarray] = ()) -> None:
        """Append rows (n, D), unit, and what is known of each; arguments as of `IndexBuilder.add`."""
        if self._open is None:
            self._open = SegmentWriter(self.folder / SEGMENTS / f"{self.number:08x}", self.kind, self.dims)
            self.number += 1
        self._open.add(rows, entries, parts)
        self.count += len(entries)
        for entry in entries:
            self.facts.add(entry)
        if self.kind not in WHOLE and self._open.is_full:
            self._close()

    def finish(self) -> list[dict[str, Any]]:
        """Build what is left, and return the records of all segments, for the head. Where a quantiser was trained,
        `quantiser` is its record."""
        self._close()
        if self._spooled:
            if self.shared is None:
                self.train(*self._drawn())
            self.records += [segment.built(self.shared) for segment in self._spooled]
        if self.records:
            synced(self.folder / SEGMENTS)
        return self.records

    def train(self, sample: np.ndarray, total: int) -> str:
        """Train the quantiser that all segments share; returns the name of its file.

        Args:
            sample: (S, D) of the rows.
            total: how many there are.
        """
        self.shared = trained(self.kind, sample, total)
        path = self.folder / QUANTISER.format(f"{self.number - len(self._spooled):08x}")
        self._made.append(path)
        faiss_library().write_index(self.shared, str(path))
        synced(path)
        self.quantiser = {"file": path.name, "rows": total, **file_facts(path)}
        return path.name

    def take(self, record: dict[str, Any], about: Mapping[str, Any]) -> None:
        """Add a segment that another process has written.

        Args:
            record: of it, for the head.
            about: what is known of its entries, of `Facts.summary`.
        """
        self.records.append(record)
        self.count, self.number = self.count + record["entries"], self.number + 1
        self.facts.merge(about)

    def discard(self) -> None:
        """Take away all that was written."""
        for segment in [*self._spooled, *([self._open] if self._open else [])]:
            with suppress(OSError):  # a full disk shows once more when a file is closed; the error says so
                segment.close()
        for path in self._made:
            with suppress(OSError):
                path.unlink()
        names = [record["name"] for record in self.records]
        for folder in [*(self.folder / SEGMENTS / name for name in names), *(each.folder for each in self._spooled)]:
            shutil.rmtree(folder, ignore_errors=True)
        if self._open is not None:
            shutil.rmtree(self._open.folder, ignore_errors=True)

    def _close(self) -> None:
        if self._open is None:
            return
        self._open.close()
        if self.kind in QUANTISED:
            self._spooled.append(self._open)  # until there is a quantiser
        else:
            self.records.append(self._open.built(graph_threads=self.graph_threads))
        self._open = None

    def _drawn(self) -> tuple[np.ndarray, int]:
        """Some of the rows (S, D) that are spooled, and how many there are."""
        tables = [segment.rows for segment in self._spooled]
        total = sum(map(len, tables))
        drawn = np.sort(np.random.default_rng(0).choice(total, sampled_rows(total), replace=False))
        starts = np.cumsum([0, *map(len, tables)])
        cuts = np.searchsorted(drawn, starts)
        some = [table[drawn[low:high] - start] for table, start, low, high in zip(tables, starts, cuts, cuts[1:])]
        return as_type(np.concatenate(some), np.float32), total


class SegmentWriter:
    """One segment: what is added to it goes to files of its folder."""

    def __init__(self, folder: Path, kind: str, dims: int):
        self.folder, self.kind, self.dims = folder, kind, dims
        folder.mkdir(parents=True)
        self._entries, self._columns = EntryWriter(folder), ColumnWriter()
        self._flat = empty_flat(np.empty((0, dims))) if kind == "flat" else None
        self._spool, self._type = (ROWS, "<f2") if kind in QUANTISED else (SPOOL, "<f4")
        self._files = {} if kind == "flat" else {self._spool: (folder / self._spool).open("wb")}

    @property
    def count(self) -> int:
        return self._entries.count

    @property
    def is_full(self) -> bool:
        count = self.count
        in_memory = 0 if self.kind in QUANTISED else 4 * self.dims * count
        return count >= SEGMENT_ROWS or in_memory >= SEGMENT_BYTES

    @property
    def rows(self) -> np.ndarray:
        """(N, D), as they were written."""
        return np.memmap(self.folder / self._spool, self._type, "r", shape=(self._entries.count, self.dims))

    def add(self, rows: np.ndarray, entries: Sequence[Entry], parts: Sequence[np.ndarray]) -> None:
        if self._flat is not None:
            self._flat.add(np.ascontiguousarray(rows, np.float32))
        else:
            self._files[self._spool].write(as_type(rows, self._type))
        self._entries.add(entries)
        self._columns.add(entries)
        if parts and PARTS not in self._files:
            self._files |= {name: (self.folder / name).open("wb") for name in (PARTS, PART_COUNTS)}
        for some in parts:
            self._files[PARTS].write(np.ascontiguousarray(some, "<f4"))
            self._files[PART_COUNTS].write(np.array(len(some), "<u4").tobytes())

    def built(self, quantiser: Any = None, graph_threads: int = 1) -> dict[str, Any]:
        """Build what is searched, and return the record of the segment.

        Args:
            quantiser: of a quantised kind.
            graph_threads: of a graph.
        """
        vectors = self.folder / VECTORS
        if quantiser is not None:
            written_codes(quantiser, self.rows, vectors)
        else:
            index = self._flat
            if index is None:
                index = built(self.kind, self.folder / SPOOL, self._entries.count, self.dims, graph_threads)
                (self.folder / SPOOL).unlink()
            faiss_library().write_index(index, str(vectors))
            self._flat = None
        names = [VECTORS, ENTRIES, OFFSETS, COLUMNS, *(name for name in self._files if name != SPOOL)]
        for path in (*(self.folder / name for name in names), self.folder):
            synced(path)
        written = {name: file_facts(self.folder / name) for name in names}
        return {"name": self.folder.name, "entries": self._entries.count, "files": written}

    def close(self) -> None:
        """Close what is written row by row, and write the columns.

        Raises:
            OSError: there is no space left.
        """
        self._entries.close()
        for file in self._files.values():
            file.close()
        self._columns.write(self.folder / COLUMNS)
