"""An index on disk, opened: checked, searched, its entries read one by one.

A folder holds `index.json` (the head: the backbone and its fingerprint, the kind, which segments there are, sizes and
checksums) and below `segments/` one folder per segment: `vectors.faiss` (the rows, or their codes), `entries.jsonl`
(what each row is), `entries.offsets` (where each line begins), `facts.parquet` (what filters look at). Data only:
opening one runs no code of it, and reads little, whatever its size: files are mapped, and of each the size and the
first bytes are checked. `verify` checks all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..data.nearest import faiss_library
from ..errors import CapabilityError, DataError
from ..features.table import transform_spec
from .columns import keys_in, wanted_rows
from .entries import Entry, damaged
from .head import HEAD, IndexInfo, check_file, read_head
from .image_reader import ImageReader
from .kinds import QUANTISED, cells_searched, memory_mapped
from .segments import PARTS, Segment
from .wanted import Wanted

IMAGES, TEXTS = "images", "texts"
FAST = "fast_decode"
"""Of the backbone in a head: whether the decoder may reduce images."""
REFINED, REFINED_PER_RESULT = 100, 10
"""Of a quantised kind, how many of the nearest are ranked again at least, and for each result."""
ROWS_AT_ONCE = 16384
"""Where all rows are read."""
QUERIES_AT_ONCE = 4
"""Whose candidates are ranked again together, while the cache of a core holds them."""
TRIES = 3
"""How often a head is read anew where a segment that it names is gone: another process has replaced both."""


@dataclass(frozen=True)
class Hit:
    """One result: its rank from 1, its cosine with the query, what it is, and its row in the index; `cluster` numbers
    what looks like the same thing, where results are clustered."""

    rank: int
    score: float
    entry: Entry
    place: int = -1
    cluster: int | None = None


class IndexRows:
    """What each row of an index is. By its number, which counts deleted rows too; iterated, deleted rows are left out.

    Args:
        segments: of the index.
    """

    def __init__(self, segments: Sequence[Segment]):
        self._segments = segments
        self._ends = np.array([segment.first + segment.count for segment in segments])

    def __len__(self) -> int:
        return sum(segment.count - segment.deleted for segment in self._segments)

    def __getitem__(self, place: int) -> Entry:
        segment = self._segments[int(np.searchsorted(self._ends, place, "right"))]
        return segment.entries[place - segment.first]

    def __iter__(self) -> Iterator[Entry]:
        for segment in self._segments:
            yield from (segment.entries[int(row)] for row in np.flatnonzero(segment.live))


class RetrievalIndex:
    """See `open`.

    Attributes:
        path: the folder.
        info: what its head says.
        segments: in the order in which they were written.
        entries: what each row is, read from disk when asked for.
    """

    def __init__(self, path: Path, info: IndexInfo, segments: list[Segment], quantiser: Any = None):
        self.path, self.info, self.segments, self.quantiser = path, info, segments, quantiser
        self.entries = IndexRows(segments)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether the folder holds an index."""
        return (folder / HEAD).is_file()

    @classmethod
    def open(cls, path: str | Path) -> RetrievalIndex:
        """The index in a folder, its files checked by size and first bytes.

        Raises:
            DataError: no index there, of another format, or a missing or damaged file. CapabilityError: no faiss.
        """
        path = Path(path)
        for left in reversed(range(TRIES)):
            info = read_head(path)
            try:
                return cls._opened(path, info)
            except (DataError, FileNotFoundError):
                if not left or read_head(path) == info:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    def _opened(cls, path: Path, info: IndexInfo) -> RetrievalIndex:
        faiss_library()
        kind, dims, quantiser = info.kind, info.dims, None
        if kind in QUANTISED:
            file = path / info.quantiser["file"]
            check_file(file, info.quantiser)
            try:
                quantiser = memory_mapped(file)
            except (RuntimeError, MemoryError) as error:
                raise damaged(file, "faiss cannot read it") from error
            if not hasattr(quantiser, "nlist") or quantiser.d != dims:
                raise damaged(file, f"no quantiser of rows of width {dims}")
        segments: list[Segment] = []
        for record in info.segments:
            first = segments[-1].first + segments[-1].count if segments else 0
            segments.append(Segment(path, record, first, kind, dims, quantiser))
        opened = cls(path, info, segments, quantiser)
        if len(opened) != info.entries:
            raise damaged(path / HEAD, f"tells of {info.entries} entries, its segments hold {len(opened)}")
        return opened

    def __len__(self) -> int:
        return len(self.entries)

    def verify(self) -> None:
        """Read all files and check them against what was written.

        Raises:
            DataError: one is damaged.
        """
        if self.quantiser is not None:
            check_file(self.path / self.info.quantiser["file"], self.info.quantiser, whole=True)
        for segment in self.segments:
            segment.check(whole=True)

    def already_there(self, entries: Iterable[Entry]) -> set[tuple[str, str]]:
        """Keys (`Entry.key`) of those entries that the index has already."""
        keys = {entry.key for entry in entries}
        each = (keys_in(segment.columns, segment.entries, keys, segment.live) for segment in self.segments)
        return set().union(*each)

    def reader(self, domain: Domain | None = None, options: Mapping[str, Any] | None = None) -> ImageReader:
        """What reads its images again; arguments and errors as of `ImageReader.again`."""
        return ImageReader.again(self.info.reading, self.path, domain, options)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse another backbone than that of the rows.

        Raises:
            CapabilityError: the fingerprints differ.
        """
        made_by = self.info.backbone
        if backbone.fingerprint != made_by.fingerprint:
            raise CapabilityError(
                f"{self.path}: made with backbone '{made_by.spec}' ({made_by.fingerprint[:12]}), "
                f"not with '{backbone.spec}' as it is now ({backbone.fingerprint[:12]}); give that backbone, or make "
                "the index again"
            )

    def check_transform(self, reader: ImageReader, backbone: Backbone) -> None:
        """Refuse another preprocessing of images than that of the rows.

        Raises:
            CapabilityError: they differ.
        """
        made_with = self.info.reading.get("transform")
        if self.info.holds != TEXTS and made_with != transform_spec(reader.transform(backbone)):
            raise CapabilityError(
                f"{self.path}: its images were preprocessed differently from this version; make the index again"
            )

    @property
    def is_quantised(self) -> bool:
        """Whether codes are searched, whose candidates may be ranked again by their rows."""
        return self.info.kind in QUANTISED

    def search(self, query: Tensor, top: int = 10, wanted: Wanted | None = None, refine: bool = True) -> list[Hit]:
        """The nearest entries of one query (D,); see `search_many`."""
        return self.search_many(query[None], top, wanted, refine)[0]

    def search_many(
        self, queries: Tensor, top: int = 10, wanted: Wanted | None = None, refine: bool = True
    ) -> list[list[Hit]]:
        """The nearest entries of each query, the best first; of equal scores the one indexed first.

        Arguments and errors as of `nearest`.
        """
        return self.hits(*self.nearest(queries, top, wanted, refine))

    def hits(self, scores: np.ndarray, places: np.ndarray) -> list[list[Hit]]:
        """The entries of what `nearest` gives."""
        entries: dict[int, Entry] = {place: self.entries[place] for place in sorted({*places.ravel().tolist()} - {-1})}
        return [
            [
                Hit(rank, score, entries[place], place)
                for rank, (score, place) in enumerate(zip(*each), start=1)
                if place >= 0
            ]
            for each in zip(scores.tolist(), places.tolist())
        ]

    def nearest(
        self, queries: Tensor, top: int, wanted: Wanted | None = None, refine: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and numbers (Q, top) of the nearest rows, the best first, -1 where there is none.

        Args:
            queries: (Q, D) unit.
            top: how many at most; an approximate kind may find fewer.
            wanted: only entries that this wants.
            refine: of a quantised kind, rank the nearest again by their rows.

        Raises:
            CapabilityError: the queries are of another width.
            DataError, ConfigError: no entry can be wanted.
        """
        rows, top = self.checked(queries), min(top, len(self))
        return self.ranked(rows, *self.candidates(rows, top, wanted, refine), top, refine)

    def checked(self, queries: Tensor) -> np.ndarray:
        """Queries (Q, D) as faiss takes them.

        Raises:
            CapabilityError: they are of another width.
        """
        if queries.ndim != 2 or queries.shape[1] != self.info.dims:
            raise CapabilityError(
                f"{self.path}: holds rows of width {self.info.dims}, the query is {tuple(queries.shape[1:])}; "
                "encode it with the backbone of the index"
            )
        return np.ascontiguousarray(queries.detach().to("cpu", torch.float32).numpy())  # (Q, D)

    def candidates(
        self,
        queries: np.ndarray,
        top: int,
        wanted: Wanted | None = None,
        refine: bool = True,
        among: slice = slice(None),
        share: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and numbers (Q, K) among which `ranked` finds the nearest, of all segments or of some: what these give
        for some, joined, is what they give for all.

        Args:
            among: which segments.
            share: of the rows of all segments that are wanted; by default it is counted.
        """
        count = self._count(top, refine)
        refined = refine and self.is_quantised and len(self.segments) == 1
        scores, places = self._candidates(queries, count, wanted, refined, among, share)
        return _best(scores, places, count) if scores.shape[1] > count else (scores, places)

    def ranked(
        self, queries: np.ndarray, scores: np.ndarray, places: np.ndarray, top: int, refine: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest (Q, top) of candidates."""
        if not (refine and self.is_quantised) or len(self.segments) == 1:
            return _best(scores, places, top)
        if scores.shape[1] > (count := self._count(top, refine)):
            scores, places = _best(scores, places, count)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            scores[some] = self._cosines(queries[some], places[some])
        return _best(scores, places, top)

    def wanted_share(self, wanted: Wanted | None) -> float:
        """Share of the rows of all segments that are wanted, and not deleted.

        Raises:
            DataError, ConfigError: no entry can be wanted.
        """
        return self._share(self._masks(wanted, slice(None)))

    def _count(self, top: int, refine: bool) -> int:
        """How many candidates there are for each query."""
        return min(len(self), max(REFINED, REFINED_PER_RESULT * top)) if refine and self.is_quantised else top

    def vectors(self, hits: Sequence[Hit]) -> np.ndarray:
        """(n, D) rows of some results, as they were indexed; of a quantised kind to 16 bits."""
        return self.rows(np.array([hit.place for hit in hits], np.int64))

    def parts(self, hits: Sequence[Hit]) -> tuple[Tensor, Tensor]:
        """(n, T, D) features of the parts of some results, zero where there is none, and (n, T) bool, which are there.

        Raises:
            DataError: the index holds none, or not those of its entries.
        """
        if not all(segment.has_parts for segment in self.segments):
            raise DataError(f"{self.path}: holds no features of parts ({PARTS}); make the index again with the run")
        rows: list[Tensor] = []
        for hit in hits:
            segment = next(segment for segment in self.segments if hit.place < segment.first + segment.count)
            rows.append(torch.from_numpy(segment.parts([hit.place - segment.first])[0]))
        there = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(there, batch_first=True)

    def rows(self, places: np.ndarray) -> np.ndarray:
        """(n, D) rows by their numbers."""
        if len(self.segments) == 1:
            return self.segments[0].rows(places)
        rows = np.zeros((len(places), self.info.dims), np.float32)
        for segment in self.segments:
            chosen = (places >= segment.first) & (places < segment.first + segment.count)
            if chosen.any():
                rows[chosen] = segment.rows(places[chosen] - segment.first)
        return rows

    def blocks(self, at_once: int, wanted: Wanted | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers (n,) and rows (n, D) of all entries that are wanted, some at a time, in order.

        Raises:
            DataError, ConfigError: no entry can be wanted.
        """
        for segment, mask in zip(self.segments, self._masks(wanted, slice(None))):
            places = np.flatnonzero(segment.live if mask is None else mask)
            for start in range(0, len(places), at_once):
                some = places[start : start + at_once]
                yield some + segment.first, segment.rows(some)

    def best_products(
        self, factors: np.ndarray, top: int, wanted: Wanted | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and numbers (Q, top) of the rows whose product of dot products is highest, as of `nearest`. All rows
        are read, whatever the kind, and are in memory block by block.

        Args:
            factors: (Q, F, D).
        """
        scores = np.zeros((len(factors), 0), np.float32)
        places = np.zeros((len(factors), 0), np.int64)
        for numbers, rows in self.blocks(ROWS_AT_ONCE, wanted):
            some = np.matmul(factors, rows.T).prod(axis=1)  # (Q, n)
            first = np.argsort(-some, axis=1, kind="stable")[:, :top]
            scores = np.concatenate([scores, np.take_along_axis(some, first, 1)], axis=1)
            places = np.concatenate([places, numbers[first]], axis=1)
            scores, places = _best(scores, places, top)
        return scores, places

    def _masks(self, wanted: Wanted | None, among: slice) -> list[np.ndarray | None]:
        """Of each segment the rows that are wanted; None for all that are not deleted."""
        segments = self.segments[among]
        if not wanted:
            return [None] * len(segments)
        wanted.check(self.info, self.path)
        return [wanted_rows(each.columns, each.entries, wanted) & each.live for each in segments]

    def _share(self, masks: Sequence[np.ndarray | None]) -> float:
        """Of the rows of all segments, by the masks of all."""
        left = (
            each.count - each.deleted if mask is None else int(mask.sum()) for each, mask in zip(self.segments, masks)
        )
        return sum(left) / sum(segment.count for segment in self.segments)

    def _candidates(
        self,
        queries: np.ndarray,
        count: int,
        wanted: Wanted | None,
        refine: bool,
        among: slice,
        share: float | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and numbers (Q, K) of the `count` nearest of each segment, -1 where there is none."""
        masks = self._masks(wanted, among)
        share = self._share(masks) if share is None else share
        cells = None
        if self.quantiser is not None and not refine:  # else of one segment, whose search finds its cells
            searched = cells_searched(self.quantiser, share)
            cells = self.quantiser.quantizer.search(queries, searched)
        each = [
            segment.nearest(queries, count, mask, share, cells, refine)
            for segment, mask in zip(self.segments[among], masks)
            if mask is None or mask.any()
        ]
        if not each:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        scores, places = (np.concatenate(some, axis=1) for some in zip(*each))
        return scores, places

    def _cosines(self, queries: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(Q, K) of queries (Q, D) with the rows of these numbers (Q, K)."""
        rows = self.rows(places.clip(0).ravel()).reshape(*places.shape, -1)  # (Q, K, D)
        return np.matmul(rows, queries[:, :, None])[:, :, 0]


def _best(scores: np.ndarray, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best (Q, count) of each row; of equal scores the smaller number first, -1 last."""
    keys = np.where(places < 0, np.inf, -scores)
    rising = (keys[:, :-1] < keys[:, 1:]) | (keys[:, 1:] == np.inf)
    unsorted = np.flatnonzero(~rising.all(axis=1))  # faiss sorts, but for segments joined, and equal scores
    best = scores[:, :count].copy(), places[:, :count].copy()
    if len(unsorted):
        order = np.lexsort((places[unsorted], keys[unsorted]), axis=-1)[:, :count]
        for some, each in zip(best, (scores, places)):
            some[unsorted] = np.take_along_axis(each[unsorted], order, 1)
    return best


def mixed(text: Tensor | None, image: Tensor | None, weight: float = 0.5) -> Tensor:
    """The query of a text, an image, or both: "like this picture, but at night".

    Both are brought to unit length, added by weight, and the sum to unit length again: the mean direction.

    Args:
        text: (..., D) features, or None where there is an image.
        image: (..., D) features, or None where there is a text.
        weight: share of the text where there are both, 0..1.

    Returns:
        (..., D) unit.

    Raises:
        DataError: a feature is NaN or infinity.
    """
    check_finite(text, image)
    if text is None or image is None:
        return F.normalize((image if text is None else text).float(), dim=-1)
    both = weight * F.normalize(text.float(), dim=-1) + (1 - weight) * F.normalize(image.float(), dim=-1)
    return F.normalize(both, dim=-1)


def check_finite(text: Tensor | None, image: Tensor | None) -> None:
    """Raise the DataError of a query's feature that is NaN or infinity."""
    for kind, feature in (("text", text), ("image", image)):
        if feature is not None and not feature.isfinite().all():
            raise DataError(f"the backbone gives NaN or infinity for the {kind} of the query; give another {kind}")
