"""Many queries in an index as shard tasks: blocks of queries in groups of segments, side by side, merged afterwards.

What each task finds is what the same search of one process finds in these segments, so that the merged results are its.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.nearest import faiss_library
from ..errors import ConfigError
from ..shards import Manifest, ShardPlace, Stage
from ..shards.manifest import written_listing
from ..shards.sources import OpenedParquet, ShardRow
from .head import CHUNK_BYTES
from .index import RetrievalIndex
from .wanted import Wanted

if TYPE_CHECKING:
    import pyarrow

BLOCK, MOST_GROUPS = 4096, 64
"""Queries of a task, and tasks of a block."""
AT_ONCE = 256
OF_TASKS = {"path": "string", "id": "string", "start": "int64", "first": "int64", "last": "int64"}


@dataclass(frozen=True)
class SearchStage(Stage):
    """Candidates of a block of queries in a group of segments, a row per query.

    Args:
        index: folder of the index.
        digest: of its head, which must be the same in all tasks.
        queries: file of the queries, (Q, D) float32.
        queried: digest of these.
        top: how many results.
        wanted: only entries that this wants.
        share: of the rows of the index that are wanted.
        refine: of a quantised kind, whether the nearest are ranked again.
    """

    index: str
    digest: str
    queries: str
    queried: str
    top: int
    wanted: Wanted
    share: float
    refine: bool
    name: str = field(default="search", init=False)

    columns = ("start", "first", "last")

    @classmethod
    def of(cls, opened: RetrievalIndex, queries: Path, top: int, wanted: Wanted, refine: bool) -> SearchStage:
        """A search for the queries of a file (Q, D), as `numpy.save` writes them, which all workers see."""
        hashed = hashlib.sha256()
        with queries.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                hashed.update(chunk)
        folder, digest = str(opened.path.absolute()), opened.info.digest
        share = opened.wanted_share(wanted)
        return cls(folder, digest, str(queries), hashed.hexdigest(), top, wanted, share, refine)

    @property
    def settings(self) -> Mapping[str, Any]:
        wanted = [self.wanted.values, self.wanted.since]
        return {"index": self.digest, "queries": self.queried, "top": self.top, "wanted": wanted, "refine": self.refine}

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        found = {"scores": pa.list_(pa.float32()), "places": pa.list_(pa.int64())}
        return pa.schema({"id": pa.string(), **found})

    def listed(self, place: ShardPlace, queries: int, segments: int) -> Manifest:
        """One row per block and group, listed in a place: all groups of a block follow each other."""
        each = -(-segments // MOST_GROUPS)
        rows = (
            {"path": self.queries, "id": f"{start}-{first}", "start": start, "first": first, "last": first + each}
            for start in range(0, queries, BLOCK)
            for first in range(0, segments, each)
        )
        return Manifest(tuple(written_listing(place, rows, OF_TASKS, "searches")))

    def start(self, threads: int | None) -> tuple[RetrievalIndex, np.ndarray]:
        if threads is not None:
            faiss_library().omp_set_num_threads(threads)
        opened = RetrievalIndex.open(self.index)
        if opened.info.digest != self.digest:
            raise ConfigError(f"{self.index}: another process has changed this index meanwhile; run the command again")
        return opened, np.load(self.queries, mmap_mode="r", allow_pickle=False)

    def run(self, state: Any, rows: Iterator[ShardRow], batch_size: int) -> Iterator[Any]:
        import pyarrow as pa

        opened, queries = state
        for row in rows:
            start, among = row.columns["start"], slice(row.columns["first"], row.columns["last"])
            for first in range(start, min(start + BLOCK, len(queries)), AT_ONCE):
                some = np.array(queries[first : min(first + AT_ONCE, start + BLOCK)])
                found = opened.candidates(some, self.top, self.wanted, self.refine, among, self.share)
                lists = {name: list(values) for name, values in zip(("scores", "places"), found)}
                yield pa.table({"id": [f"{row.id}-{first + n}" for n in range(len(some))], **lists}, self.schema)


def merged(
    stage: SearchStage, opened: RetrievalIndex, queries: np.ndarray, place: ShardPlace
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cosines and numbers (n, top) of the nearest rows of some queries after the others, -1 where there is none.

    Args:
        place: of the tasks' results.
    """
    names = sorted(name for name in place.listed("") if name.endswith(".parquet"))
    groups = len(names) // -(-len(queries) // BLOCK)
    for block in range(0, len(names), groups):
        tables, start = [_table(place, name) for name in names[block : block + groups]], block // groups * BLOCK
        for first in range(0, len(tables[0]), AT_ONCE):
            some = [_arrays(table.slice(first, AT_ONCE)) for table in tables]
            scores, places = (np.concatenate(each, axis=1) for each in zip(*some))
            rows = queries[start + first : start + first + len(scores)]
            yield opened.ranked(rows, scores, places, stage.top, stage.refine)


def _table(place: ShardPlace, name: str) -> Any:
    with closing(OpenedParquet(place.path(name))) as opened:
        return opened.file.read(["scores", "places"])


def _arrays(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers (n, K)."""
    each = (table.column(name).combine_chunks().flatten().to_numpy() for name in ("scores", "places"))
    scores, places = (values.reshape(len(table), -1).copy() for values in each)
    return scores, places
