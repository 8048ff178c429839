"""The result being filled: one row per image, one column for the image itself and one for each augmented view.

Each cell is found by its key: a digest of everything that its value depends on, and of nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.features import PROJECTED
from ..contracts.items import DomainData, Item
from ..data.file_hashes import FileHashes
from ..data.verify import contents_of
from ..errors import ConfigError, DataError, one_line
from ..runtime.distributed import all_gather_json, all_gather_rows, world_size
from ..runtime.process import collecting_seldom
from .extract import DecodeJob, PartMeans, Piece, check_amp, check_tap, cores

FORMAT = 1
PART_COUNTS = "numbers of parts"
"""The space of what no backbone changes: how many parts a sample has, one number per row."""


def space_of(backbone: Backbone, tap: str, dtype: str) -> str:
    """Canonical JSON of what all features of one folder share."""
    return canonical_json({"format": FORMAT, "backbone": backbone.fingerprint, "tap": tap, "dtype": dtype})


def folder_name(space: str) -> str:
    """The folder of a space."""
    return hashlib.sha256(space.encode()).hexdigest()[:32]


def image_key(space: str, content: str, transform: str, view: int | None = None, seed: int = 0) -> bytes:
    """Key of one image feature, 32 bytes.

    Args:
        space: of `space_of`.
        content: of `core.data.verify.content_key`: the image's bytes, which part of them, and how it is decoded.
        transform: of `transform_spec`.
        view: index of the augmented view, None for the image as it is (which no seed changes).
        seed: of the augmentation.
    """
    head, middle = _around_content(space, transform)
    seeded = "null" if view is None else f"[{view},{seed}]"
    key = head.copy()
    key.update(f'"{content}{middle}{seeded}]'.encode())  # canonical JSON of [space, content, transform, [view, seed]]
    return key.digest()


@lru_cache(maxsize=16)
def _around_content(space: str, transform: str) -> tuple[Any, str]:
    """What the keys of a space have in common: the digest of what stands before the content, and what follows it."""
    return hashlib.sha256(canonical_json([space])[:-1].encode() + b","), f'",{canonical_json(transform)},'


def part_key(key: bytes, part: int) -> bytes:
    """Key of one part of a sample, 32 bytes, from the `image_key` of the whole."""
    return hashlib.sha256(key + part.to_bytes(8, "big")).digest()


def part_count_key(content: str, transform: str, view: int | None = None, seed: int = 0) -> bytes:
    """Key of a sample's number of parts, 32 bytes, from the arguments of its `image_key`."""
    return hashlib.sha256("\n".join((PART_COUNTS, content, transform, str(view), str(seed))).encode()).digest()


def text_key(space: str, text: str) -> bytes:
    """Key of one text feature, 32 bytes."""
    return hashlib.sha256(canonical_json([space, "text", text]).encode()).digest()


def view_seed(seed: int, content: str, view: int) -> int:
    """The seed of one augmented view, 31 bits: a pure function of the run's seed, the image and the view."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{content}|{view}".encode()).digest()[:4], "big") >> 1


def transform_spec(transform) -> str:
    """Canonical JSON of what a transform does.

    Raises:
        ConfigError: it does not say.
    """
    spec = getattr(transform, "spec", None)
    if spec is None:
        raise ConfigError(
            f"transform {transform!r} has no attribute `spec`; give it a JSON-able dict that says exactly what it "
            "does, so that its features can be stored"
        )
    return canonical_json(spec)


def canonical_json(value: Any) -> str:
    """One text for equal values: keys sorted, no spaces; numpy values and paths as plain ones."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise ConfigError(f"{value!r} in a transform or a decode dict is not JSON-able; use numbers, texts, lists, dicts")


@dataclass(frozen=True)
class Request:
    """See `FeatureStore.get_or_compute` for the arguments.

    Column 0 of a result is the image as it is, column v + 1 its augmented view v.
    """

    data: DomainData
    backbone: Backbone
    transform: Callable
    view_transform: Callable | None
    tap: str
    views: int
    seed: int
    amp: str | None
    workers: int | None
    parts: bool = False

    def __post_init__(self):
        if self.tap != PROJECTED:
            check_tap(self.backbone, self.tap)
        if self.amp is not None:
            check_amp(self.amp)
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers {self.workers}: give 0 or more, or omit it for one per CPU core")
        if self.views < 0 or (self.views and self.view_transform is None):
            raise ConfigError(f"views={self.views}: give 0 or more, with the view_transform that makes them")

    @property
    def columns(self) -> int:
        return 1 + self.views

    @cached_property
    def space(self) -> str:
        return space_of(self.backbone, self.tap, self.amp or "float32")

    @cached_property
    def specs(self) -> tuple[str, str]:
        """What the transform does, and what that of the views does."""
        return transform_spec(self.transform), transform_spec(self.view_transform) if self.views else ""

    def key(self, content: str, column: int) -> bytes:
        """The stored key of one cell of the result."""
        return image_key(self.space, content, *self._made_as(column))

    def part_count_key(self, content: str, column: int) -> bytes:
        """The stored key of how many parts one cell is the mean of."""
        return part_count_key(content, *self._made_as(column))

    def _made_as(self, column: int) -> tuple[str, int | None, int]:
        """Transform, view and seed of a column."""
        plain, augmented = self.specs
        return (augmented, column - 1, self.seed) if column else (plain, None, 0)

    def seed_of(self, content: str, column: int) -> int | None:
        """The augmentation's seed of one cell; None for the image as it is."""
        return None if column == 0 else view_seed(self.seed, content, column - 1)


class FeatureTable:
    """Cells (N, 1 + V), each found by its key; images with the same content share keys, so each is computed once.

    A cell is one image, stored under its key, or the mean of a sample's parts, each stored under a key of its own.

    Attributes:
        values: (N, 1 + V, D) float32, None until the first row is put.
        reasons: row -> why that image cannot be used.
    """

    @collecting_seldom()
    def __init__(self, request: Request, items: Sequence[Item], hashes: FileHashes):
        self.items = items
        self.request = request
        self.values: Tensor | None = None
        self.reasons: dict[int, str] = {}
        self._filled = np.zeros((len(items), request.columns), dtype=bool)
        self._contents = self._contents_of(hashes)
        self._cells: dict[bytes, list[tuple[int, int]]] = {}
        for row, content in enumerate(self._contents):
            for column in range(request.columns if content else 0):
                self._cells.setdefault(request.key(content, column), []).append((row, column))
        self._counts: dict[bytes, int] = {}  # key -> number of parts, as far as known; 0: an image as it is
        self._lacking: dict[bytes, tuple[bytes, int]] = {}  # stored key of a part -> key of its cell, which part
        self._without_mean: set[bytes] = set()  # of the cells that have parts, those of which some are lacking
        self._parts: dict[bytes, np.ndarray] = {}  # key -> (T, D), where parts are asked for
        self._todo: set[bytes] = set()

    @cached_property
    def _means(self) -> PartMeans:
        return PartMeans()

    @property
    def filled(self) -> int:
        """Number of cells that have their feature."""
        return int(self._filled.sum())

    @property
    def todo(self) -> int:
        """Number of keys of `jobs` that are neither computed nor failed."""
        return len(self._todo)

    @property
    def kept(self) -> list[int]:
        """Rows that have all their features."""
        return [row for row in range(len(self.items)) if row not in self.reasons]

    def count_keys(self) -> dict[bytes, bytes]:
        """Stored key of a number of parts -> key of the cell."""
        return {self._count_key(key): key for key in self._cells}

    def know(self, key: bytes, parts: int) -> bool:
        """Take in how many parts a cell has, 0 for an image as it is. Returns whether that is to be stored.

        An image's 0 is stored only where parts are asked for: for its feature alone nobody needs to know.
        """
        if key in self._counts:
            if self._counts[key] != parts:
                before = self._counts[key]
                self.fail(
                    [key], f"it had {before} parts and now has {parts}; decoding must give the same number each time"
                )
            return False
        self._counts[key] = parts
        if parts:
            self._without_mean.add(key)
        self._lacking.update((part_key(key, part), (key, part)) for part in range(parts))
        if not self._is_open(key):
            self._todo.discard(key)
        return parts > 0 or self._asks_for_parts(key)

    def learn(self, pieces: Sequence[Piece]) -> tuple[list[bytes], np.ndarray]:
        """Take in how many parts decoded samples have; the keys and rows (k, 1) to store of that."""
        of = {piece.key: piece.of for piece in pieces}
        new = [key for key, parts in of.items() if self.know(key, parts)]
        rows = np.array([of[key] for key in new], dtype=np.float32)[:, None]
        return [self._count_key(key) for key in new], rows

    def lacking(self, stored: set[bytes]) -> dict[int, int]:
        """Row -> how many pieces of the image itself are not among some stored keys, at least 1; rows that lack none,
        or cannot be read, are left out. A sample whose number of parts is unknown counts as one."""
        pieces = {}
        for row, content in enumerate(self._contents):
            if content is None:
                continue
            key = self.request.key(content, 0)
            parts = self._counts.get(key)
            wanted = [part_key(key, part) for part in range(parts)] if parts else [key]
            if missing := sum(each not in stored for each in wanted) or (parts is None and self.request.parts):
                pieces[row] = int(missing)
        return pieces

    def missing(self) -> list[bytes]:
        """Stored keys without a feature, each once: of images in their order, then of parts."""
        whole = [key for key, cells in self._cells.items() if not self._counts.get(key) and not self._filled[cells[0]]]
        return [*whole, *self._lacking]

    def jobs(self) -> list[DecodeJob]:
        """What is to be computed: of each image all that is missing."""
        by_row: dict[int, list[tuple[bytes, int]]] = {}
        for key in filter(self._is_open, self._cells):
            row, column = self._cells[key][0]
            by_row.setdefault(row, []).append((key, column))
        jobs = []
        for row, wanted in by_row.items():
            seeds = tuple(self.request.seed_of(self._contents[row], column) for _, column in wanted)
            keys = tuple(key for key, _ in wanted)
            jobs.append(DecodeJob(self.items[row], keys, seeds, tuple(map(self._stored, keys))))
        self._todo = {key for job in jobs for key in job.keys}
        return jobs

    def put(self, keys: Sequence[bytes], rows: np.ndarray) -> int:
        """Features (k, D) of k stored keys, of images or of parts. Returns how many keys of `jobs` that settles."""
        before = self.todo
        if self.values is None:
            self.values = torch.zeros(*self._filled.shape, rows.shape[1])
        self._fill([(key, i) for i, key in enumerate(keys) if key in self._cells], rows)
        for i, stored_key in enumerate(keys if self._lacking else ()):
            if stored_key in self._lacking:
                self._put_part(*self._lacking.pop(stored_key), rows[i])
        return before - self.todo

    def fail(self, keys: Sequence[bytes], reason: str) -> None:
        """No feature can be had for these keys: their images are left out."""
        self._todo.difference_update(keys)
        for key in keys:
            for row, _ in self._cells[key]:
                self.reasons.setdefault(row, reason)

    def parts_of(self, rows: Sequence[int]) -> tuple[Tensor | None, list[int]]:
        """Parts (n, T, D) of some rows, zero beyond their number, and that number: 0 for an image as it is, which is
        its own only part. None and zeros where no row has parts, or they are not asked for."""
        if not self._parts:
            return None, [0] * len(rows)
        keys = [self.request.key(self._contents[row], 0) for row in rows]
        counts = [self._counts[key] for key in keys]
        if not any(counts):
            return None, counts
        parts = torch.zeros(len(rows), max(counts), self.values.shape[2])
        for row_parts, row, key, count in zip(parts, rows, keys, counts):
            row_parts[: count or 1] = torch.from_numpy(self._parts[key]) if count else self.values[row, 0]
        return parts, counts

    def _fill(self, whole: list[tuple[bytes, int]], rows: np.ndarray) -> None:
        """Features of cells: (key, row of `rows`)."""
        cells = [(row, column, i) for key, i in whole for row, column in self._cells[key]]
        if not cells:
            return
        row, column, i = np.array(cells).T
        self.values.numpy()[row, column] = rows[i]
        self._filled[row, column] = True
        self._todo.difference_update(key for key, _ in whole if not self._is_open(key))

    def _put_part(self, key: bytes, part: int, row: np.ndarray) -> None:
        count = self._counts[key]
        if self._asks_for_parts(key):
            self._parts.setdefault(key, np.zeros((count, len(row)), dtype=np.float32))[part] = row
        mean = self._means.add(key, count, row)
        if mean is not None:
            self._without_mean.discard(key)
            self._fill([(key, 0)], mean[None])

    def _is_open(self, key: bytes) -> bool:
        """Whether something of a cell is still to be decoded."""
        if self._counts.get(key):
            return key in self._without_mean
        unknown = self._asks_for_parts(key) and key not in self._counts
        return unknown or not self._filled[self._cells[key][0]]

    def _stored(self, key: bytes) -> frozenset[int | None]:
        """The parts of an open cell that are there; None stands for the image as it is."""
        count = self._counts.get(key)
        if count:
            return frozenset(part for part in range(count) if part_key(key, part) not in self._lacking)
        return frozenset([None]) if self._filled[self._cells[key][0]] else frozenset()

    def _asks_for_parts(self, key: bytes) -> bool:
        """Only of images as they are, not of augmented views."""
        return self.request.parts and self._cells[key][0][1] == 0

    def _count_key(self, key: bytes) -> bytes:
        row, column = self._cells[key][0]
        return self.request.part_count_key(self._contents[row], column)

    def _contents_of(self, hashes: FileHashes) -> list[str | None]:
        """Content keys of the items; None, and a reason, for files that cannot be read."""
        with ThreadPoolExecutor(max(1, cores() if self.request.workers is None else self.request.workers)) as pool:
            contents = contents_of(self.items, hashes, pool)
        for row, content in enumerate(contents):
            if isinstance(content, DataError):
                self.reasons[row] = one_line(content)
        return [None if isinstance(content, DataError) else content for content in contents]


@dataclass
class Share:
    """What one rank has of a result.

    Args:
        positions: n positions in the whole, of the images that could be read.
        values: (n, 1 + V, D) float32.
        reasons: (position, why) of the others.
        computed, cached: numbers of cells.
        parts: (n, T, D) float32 features of the parts of each image, or None where none has parts.
        counts: n numbers of parts, 0 for an image as it is, which is its own only part.
    """

    positions: list[int]
    values: Tensor
    reasons: list[tuple[int, str]]
    computed: int
    cached: int
    parts: Tensor | None = None
    counts: list[int] = field(default_factory=list)

    @property
    def parts_mask(self) -> Tensor:
        """(n, T), True where there is a part."""
        return torch.arange(self.parts.shape[1]) < torch.tensor(self.counts).clamp(min=1)[:, None]

    @classmethod
    def of(cls, table: FeatureTable, positions: list[int], computed: int, width: int) -> Share:
        """A filled table whose rows stand at `positions` of the whole; `width` is D where no row could be read."""
        kept = table.kept
        values = torch.zeros(0, table.request.columns, width) if table.values is None else table.values
        parts, counts = table.parts_of(kept)
        return cls(
            positions=[positions[row] for row in kept],
            values=values if len(kept) == len(values) else values[kept],
            reasons=[(positions[row], reason) for row, reason in sorted(table.reasons.items())],
            computed=computed,
            cached=table.filled - computed,
            parts=parts,
            counts=counts,
        )


def gathered(share: Share) -> Share:
    """The shares of all ranks as one, the same on all ranks."""
    if world_size() == 1:
        return share
    of_ranks = all_gather_json([share.positions, share.reasons, share.counts, share.computed, share.cached])
    columns = share.values.shape[1]
    values = all_gather_rows(share.values.flatten(1))
    positions = torch.tensor([position for positions, *_ in of_ranks for position in positions], dtype=torch.int64)
    order = positions.argsort()
    counts = [count for _, _, counts, *_ in of_ranks for count in counts]
    return Share(
        positions=positions[order].tolist(),
        values=values[order].unflatten(1, (columns, -1)),
        reasons=sorted((position, reason) for _, reasons, *_ in of_ranks for position, reason in reasons),
        computed=sum(computed for *_, computed, _ in of_ranks),
        cached=sum(cached for *_, cached in of_ranks),
        parts=_all_parts(share, max(counts))[order] if any(counts) else None,
        counts=[counts[i] for i in order.tolist()],
    )


def _all_parts(share: Share, longest: int) -> Tensor:
    """(sum of n, T, D) of all ranks, in the order of ranks, padded with zeros to the longest."""
    local = share.values[:, :1] if share.parts is None else share.parts
    padded = torch.nn.functional.pad(local, (0, 0, 0, longest - local.shape[1]))  # (n, T, D)
    return all_gather_rows(padded.flatten(1)).unflatten(1, (longest, -1))
