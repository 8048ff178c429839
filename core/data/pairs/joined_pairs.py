"""Pairs of several sources as one set, in which queries of each search the images and texts of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...contracts.items import Decoded, Item
from ..file_hashes import FileHashes
from .pair_set import Pair


@dataclass(frozen=True)
class JoinedPairs:
    """Sets one after the other; ids and groups begin with the name of the source. Labels, which mean something else in
    each, are left out.

    Args:
        names: of the sources.
        parts: a `PairSet`, or a set like it, of each.
    """

    names: tuple[str, ...]
    parts: tuple[Any, ...]

    @property
    def name(self) -> str:
        return " + ".join(self.names)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(S + 1,) the first row of each source, and the number of all."""
        return np.cumsum([0, *map(len, self.parts)])

    @cached_property
    def image_offsets(self) -> np.ndarray:
        """(S + 1,) the same of images."""
        return np.cumsum([0, *(1 + int(part.image_numbers.max(initial=-1)) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __getitem__(self, row: int) -> Pair:
        number, own = self._place(row)
        pair, name = self.parts[number][own], self.names[number]
        group = None if pair.group is None else f"{name}/{pair.group}"
        image = int(self.image_offsets[number]) + pair.image
        return replace(pair, id=f"{name}/{pair.id}", image=image, group=group, label=None)

    def __iter__(self) -> Iterator[Pair]:
        return (self[row] for row in range(len(self)))

    def id(self, row: int) -> str:
        """Of a row: "SOURCE/ID"."""
        number, own = self._place(row)
        return f"{self.names[number]}/{self.parts[number].id(own)}"

    def load_image(self, row: int) -> Decoded:
        number, own = self._place(row)
        return self.parts[number].load_image(own)

    def content_hash(self, row: int, hashes: FileHashes) -> str:
        number, own = self._place(row)
        return self.parts[number].content_hash(own, hashes)

    @property
    def comparable(self) -> bool:
        return all(part.comparable for part in self.parts)

    def image_sizes(self, rows: np.ndarray) -> np.ndarray:
        """(n,) of some rows, in any order."""
        number = np.searchsorted(self.offsets, rows, side="right") - 1
        sizes = np.zeros(len(rows), np.int64)
        for each in np.unique(number).tolist():
            own = number == each
            sizes[own] = self.parts[each].image_sizes(rows[own] - self.offsets[each])
        return sizes

    def image_end(self, row: int, most: int) -> bytes:
        number, own = self._place(row)
        return self.parts[number].image_end(own, most)

    @property
    def image_numbers(self) -> np.ndarray:
        """(N,) which of the distinct images each row has."""
        own = [part.image_numbers + offset for part, offset in zip(self.parts, self.image_offsets.tolist())]
        return np.concatenate(own)

    @property
    def caption_count(self) -> int:
        """Captions of all rows."""
        return sum(part.caption_count for part in self.parts)

    def split(self, name: str) -> JoinedPairs:
        return replace(self, parts=tuple(part.split(name) for part in self.parts))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in Item.SPLITS if any(name in part.splits for part in self.parts))

    def select(self, rows: Sequence[int] | np.ndarray) -> JoinedPairs:
        """Some rows, source by source."""
        chosen = np.asarray(rows, np.int64)
        number = np.searchsorted(self.offsets, chosen, side="right") - 1
        of_each = (chosen[number == each] - self.offsets[each] for each in range(len(self.parts)))
        return replace(self, parts=tuple(part.select(own) for part, own in zip(self.parts, of_each)))

    def spread(self, most: int) -> JoinedPairs:
        """At most so many rows, of each source an equal part of them, spread evenly."""
        each = max(2, most // len(self.parts))
        rows = [np.linspace(0, len(part) - 1, min(each, len(part))).round().astype(int) for part in self.parts]
        return replace(self, parts=tuple(part.select(own) for part, own in zip(self.parts, rows)))

    def _place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a set of {len(self)}")
        number = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return number, row - int(self.offsets[number])
