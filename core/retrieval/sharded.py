"""Segments made of shards of features, as shard tasks: side by side, by whoever runs them.

A task writes one segment, of whole files of features that follow each other, beside its place, and renames it: one that
is written twice is the same twice. The head is another's to write, once, when all are there.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.nearest import faiss_library
from ..errors import SourceError
from ..shards import Manifest, ShardPlace, Stage
from ..shards.manifest import written_listing
from ..shards.sources import OpenedParquet, ShardRow
from .build import written_to
from .entries import Entry
from .head import SEGMENTS
from .index import RetrievalIndex
from .kinds import QUANTISED, WHOLE, as_type, memory_mapped, sampled_rows
from .wanted import Facts
from .writing import SEGMENT_BYTES, SEGMENT_ROWS, SegmentsWriter, SegmentWriter

if TYPE_CHECKING:
    import pyarrow

AT_ONCE = 4096
ENTRY = "entry"
"""The column that says what a row is, as a line of `entries.jsonl`."""
OF_SEGMENTS = {"path": "string", "id": "string", "files": "string"}


def entry_line(entry: Entry) -> str:
    """An entry for the column `ENTRY`: bytes of names of files that are no text are written as JSON has them."""
    return entry.line().encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class FeatureShards:
    """Features in Parquet files.

    Args:
        files: (path or URL, rows) of each, in order.
        column: of the features.
        has_entries: whether `ENTRY` is there; else a row is known by its id.
        dims: D.
    """

    files: tuple[tuple[str, int], ...]
    column: str
    has_entries: bool
    dims: int

    def __len__(self) -> int:
        return sum(rows for _, rows in self.files)

    def batches(self, name: str, rows_alone: bool = False) -> Iterator[tuple[np.ndarray, list[Entry]]]:
        """(n, D) float32 unit rows of one file, some at a time, and what they are.

        Args:
            rows_alone: leave out what they are.

        Raises:
            SourceError: it cannot be read, or holds something else.
        """
        says = ENTRY if self.has_entries else "id"
        try:
            with closing(OpenedParquet(name)) as opened:
                columns = [self.column, *([] if rows_alone else [says])]
                for batch in opened.file.iter_batches(AT_ONCE, columns=columns, use_threads=False):
                    numbers = batch.column(self.column).flatten().to_numpy(zero_copy_only=False)
                    rows = numbers.astype(np.float32).reshape(len(batch), self.dims)
                    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
                    texts = [] if rows_alone else batch.column(says).to_pylist()
                    yield rows, [Entry.from_line(text) if self.has_entries else Entry(text, text) for text in texts]
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"{name}: not a readable shard of features ({error}); make it again") from error

    def drawn(self) -> np.ndarray:
        """(S, D) the rows that a quantiser of all is trained on, as 16 bits hold them."""
        total, start, some = len(self), 0, []
        drawn = np.sort(np.random.default_rng(0).choice(total, sampled_rows(total), replace=False))
        for name, count in self.files:
            mine = drawn[np.searchsorted(drawn, start) : np.searchsorted(drawn, start + count)]
            for rows, _ in self.batches(name, rows_alone=True) if len(mine) else ():
                chosen = mine[np.searchsorted(mine, start) : np.searchsorted(mine, start + len(rows))]
                some.append(as_type(rows[chosen - start], "<f2"))
                start += len(rows)
            start = start if len(mine) else start + count
        return as_type(np.concatenate(some), np.float32)

    def segments(self, kind: str) -> Iterator[list[str]]:
        """Files of each segment: as many as make one; all of a kind whose rows stay together."""
        most = SEGMENT_ROWS if kind in QUANTISED else min(SEGMENT_ROWS, max(1, SEGMENT_BYTES // (4 * self.dims)))
        names: list[str] = []
        held = 0
        for name, rows in self.files:
            if names and held + rows > most and kind not in WHOLE:
                yield names
                names, held = [], 0
            names.append(name)
            held += rows
        if names:
            yield names


@dataclass(frozen=True)
class SegmentStage(Stage):
    """One segment per row.

    Args:
        folder: of the index that is written.
        kind: of the index.
        features: what it is made of.
        number: of the first segment.
        quantiser: file of the folder, or "".
        before: an index whose entries are left out, or "".
        graph_threads: as of `kinds.built`.
    """

    folder: str
    kind: str
    features: FeatureShards
    number: int
    quantiser: str = ""
    before: str = ""
    graph_threads: int = 1
    name: str = field(default="segments", init=False)

    columns = ("files",)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"folder": self.folder, "kind": self.kind, "number": self.number, "before": self.before}

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        texts = dict.fromkeys(("id", "record", "about"), pa.string())
        return pa.schema({**texts, "already_there": pa.int64()})

    def listed(self, place: ShardPlace) -> Manifest:
        """One row per segment, listed in a place."""
        files = enumerate(self.features.segments(self.kind))
        rows = ({"path": names[0], "id": f"{number:08d}", "files": json.dumps(names)} for number, names in files)
        return Manifest(tuple(written_listing(place, rows, OF_SEGMENTS, "segments")))

    def start(self, threads: int | None) -> tuple[Any, RetrievalIndex | None]:
        if threads is not None:
            faiss_library().omp_set_num_threads(threads)
        quantiser = memory_mapped(Path(self.folder) / self.quantiser) if self.quantiser else None
        return quantiser, RetrievalIndex.open(self.before) if self.before else None

    def run(self, state: Any, rows: Iterator[ShardRow], batch_size: int) -> Iterator[Any]:
        import pyarrow as pa

        quantiser, before = state
        for row in rows:
            record, facts, there = self._written(f"{self.number + int(row.id):08x}", row, quantiser, before)
            made = {"record": json.dumps(record), "about": json.dumps(facts.summary()), "already_there": there}
            yield pa.table({"id": [row.id], **{name: [value] for name, value in made.items()}}, self.schema)

    def _written(
        self, name: str, row: ShardRow, quantiser: Any, before: RetrievalIndex | None
    ) -> tuple[dict[str, Any] | None, Facts, int]:
        """The record of a segment, None where no row is new; what is known of its entries; how many are not new."""
        place, facts, there = Path(self.folder) / SEGMENTS / name, Facts(), 0
        with written_to(Path(self.folder)):
            made = SegmentWriter(place.with_name(f".{name}-{secrets.token_hex(4)}"), self.kind, self.features.dims)
            try:
                for file in json.loads(row.columns["files"]):
                    for some, entries in self.features.batches(file):
                        known = before.already_there(entries) if before is not None else set()
                        new = [number for number, entry in enumerate(entries) if entry.key not in known]
                        there += len(entries) - len(new)
                        if new:
                            made.add(some[new], entries := [entries[number] for number in new], ())
                            for entry in entries:
                                facts.add(entry)
                made.close()
                record = made.built(quantiser, self.graph_threads) if made.count else None
                if record is not None:
                    with suppress(OSError):  # another has written the same
                        os.rename(made.folder, place)
            finally:
                shutil.rmtree(made.folder, ignore_errors=True)
        return record and {**record, "name": name}, facts, there


def trained_file(writer: SegmentsWriter, features: FeatureShards) -> str:
    """The file of the quantiser that a new index is to have, trained now; "" where it needs none, or has one.

    Args:
        writer: of the index.
    """
    if writer.kind not in QUANTISED or writer.shared is not None:
        return ""
    return writer.train(features.drawn(), len(features))


def take_segments(writer: SegmentsWriter, place: ShardPlace) -> int:
    """Give a writer the segments that tasks wrote; returns how many entries were left out.

    Args:
        place: of the tasks' results.
    """
    there = 0
    for name in sorted(each for each in place.listed("") if each.endswith(".parquet")):
        with closing(OpenedParquet(place.path(name))) as opened:
            for row in opened.file.read().to_pylist():
                there += row["already_there"]
                if (record := json.loads(row["record"])) is not None:
                    writer.take(record, json.loads(row["about"]))
    return there
