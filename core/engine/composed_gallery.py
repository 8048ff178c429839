"""The images of an index that a set of composed queries names, and their scores, block by block of the gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.composition import ImagesAndWords
from ..errors import DataError, shortened
from ..retrieval.composed_sets import DOMAINS, ComposedQuery, ComposedSet
from ..retrieval.index import RetrievalIndex, check_finite
from .queries import QueryEncoder

QUERIES_AT_ONCE, SCORES_AT_ONCE, FEWEST_ROWS = 1024, 1 << 22, 256
"""Queries that the gallery goes by for, scores of them in memory, and rows of it at least."""
IMAGE, WORDS = "image", "text"


def image_places(opened: RetrievalIndex, composed: ComposedSet, file: Path) -> dict[str, int]:
    """Name of an image -> its row in the index.

    Raises:
        DataError: the index lacks images that are right, or are searched.
    """
    by_key: dict[str, list[str]] = {}
    for name in composed.names:
        by_key.setdefault(composed.keys_of(name) if composed.name == DOMAINS else name, []).append(name)
    places: dict[str, int] = {}
    for segment in opened.segments:
        for row in np.flatnonzero(segment.live).tolist():
            source = segment.entries[row].source or ""
            for name in by_key.get(composed.keys_of(source), ()):
                if composed.name != DOMAINS or f"/{source}".endswith(f"/{name}"):
                    places.setdefault(name, segment.first + row)
    needed = {name for query in composed.queries for name in (*query.targets, *query.members)}
    needed |= set() if composed.name == DOMAINS else {query.reference for query in composed.queries}
    if missing := sorted(needed - places.keys()):
        raise DataError(
            f"{file}: {len(missing):,} of {len(needed):,} images that it names are not in {opened.path}, such as "
            f"{shortened(missing[0])}; index the images of the set"
        )
    return places


def searched_rows(
    opened: RetrievalIndex, composed: ComposedSet, places: Mapping[str, int]
) -> tuple[np.ndarray | None, int]:
    """Which rows are searched (rows,), None for all, and how many these are."""
    if composed.gallery is None:
        return None, len(opened)
    allowed = np.zeros(sum(segment.count for segment in opened.segments), bool)
    allowed[[places[name] for name in composed.gallery if name in places]] = True
    return allowed, int(allowed.sum())


def query_factors(
    queries: Sequence[ComposedQuery], encode: QueryEncoder, places: Mapping[str, int], file: Path
) -> dict[str, Tensor]:
    """(Q, F, D) of the composition, and of the image and the words alone."""
    names = list(dict.fromkeys(query.reference for query in queries))
    indexed = [name for name in names if name in places]
    of_image = dict(zip(indexed, torch.from_numpy(encode.opened.rows(np.array([places[name] for name in indexed])))))
    others = [name for name in names if name not in places]
    read = encode.of_images([str(file.parent / name) for name in others])
    of_image |= {name: F.normalize(feature, dim=-1) for name, (_, feature, _) in zip(others, read)}
    texts = [text for query in queries for text in query.texts]
    rows = iter(encode.gallery.encode(texts))
    of_text = torch.stack([torch.stack([next(rows) for _ in query.texts]).mean(dim=0) for query in queries])
    image = torch.stack([of_image[query.reference] for query in queries])
    check_finite(of_text, image)
    both = ImagesAndWords(image, of_text, [query.texts for query in queries])
    composed = encode.composition.compose(both, encode.gallery).factors
    return {"": composed, IMAGE: both.unit_image[:, None], WORDS: both.unit_text[:, None]}


def score_blocks(
    opened: RetrievalIndex, ways: Mapping[str, Tensor], allowed: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray, Tensor]]:
    """(way, numbers (n,), scores (Q, n)) of the gallery; in float64, so that equal rows have equal scores in float32
    wherever they stand."""
    count = max(FEWEST_ROWS, SCORES_AT_ONCE // len(next(iter(ways.values()))))
    for numbers, rows in opened.blocks(count):
        if allowed is not None:
            numbers, rows = numbers[allowed[numbers]], rows[allowed[numbers]]
        wide = torch.from_numpy(rows).double()
        for way, factors in ways.items():
            scores = factors[:, 0].double() @ wide.T
            for other in factors[:, 1:].unbind(dim=1):
                scores *= other.double() @ wide.T
            yield way, numbers, scores.float()


@dataclass(frozen=True, eq=False)
class Marks:
    """Rows of the gallery that belong to queries, (Q, R), -1 where there are fewer."""

    places: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Marks:
        width = max(map(len, rows))
        padded = torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.int64)
        return cls(padded.view(len(rows), width))

    @property
    def width(self) -> int:
        return self.places.shape[1]

    @property
    def first(self) -> Marks:
        return Marks(self.places[:, :1].contiguous())

    def empty(self) -> Tensor:
        return torch.full(self.places.shape, -torch.inf)

    def gather(self, numbers: np.ndarray, scores: Tensor, into: Tensor) -> None:
        """Put the scores of these rows in a block to their places."""
        there, column = self._in(numbers)
        into[there] = scores[there.nonzero()[:, 0], column]

    def leave_out(self, numbers: np.ndarray, scores: Tensor) -> None:
        there, column = self._in(numbers)
        scores[there.nonzero()[:, 0], column] = -torch.inf

    def _in(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Which are in a block (Q, R), and the columns of these."""
        block = torch.from_numpy(numbers)
        if not len(block):
            return torch.zeros_like(self.places, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
        column = torch.searchsorted(block, self.places).clamp(max=len(block) - 1)
        there = block[column] == self.places
        return there, column[there]
