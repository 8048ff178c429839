"""`search --evaluate`: how often composed queries of a published set find what is right in an index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.composition import ImagesAndWords
from ..contracts.domain import Domain
from ..contracts.options import keywords, options_from, options_of
from ..contracts.shown import in_short
from ..errors import ConfigError, DataError, shortened
from ..metrics import composed as metrics
from ..metrics.intervals import mean_interval, mover, share_interval
from ..retrieval.composed_sets import CIRCO, CIRR, DOMAINS, FASHION_IQ, ComposedQuery, ComposedSet, read_composed
from ..retrieval.index import TEXTS, RetrievalIndex, check_finite
from ..retrieval.wanted import Wanted
from .options import EvaluateOptions, SearchOptions
from .queries import QueryEncoder, composition_of
from .search import opened_index

QUERIES_AT_ONCE, SCORES_AT_ONCE, FEWEST_ROWS = 1024, 1 << 22, 256
"""Queries that the gallery goes by for, scores of them in memory, and rows of it at least."""
IMAGE, WORDS = "image", "text"
AT = {CIRR: (1, 5, 10, 50), CIRCO: (5, 10, 25, 50), FASHION_IQ: (10, 50), DOMAINS: (10, 50)}
"""K of each set, as published; of domains those of ImageNet-R."""
IN_SET_AT = (1, 2, 3)
MEAN = "mean"
USED = ("compose", "weight", "vocabulary", "backbone")


@dataclass(frozen=True)
class Score:
    """One score of a part of the set, "" for the whole, in 0..1.

    Attributes:
        interval: of 95 %, over queries; those of one image count together.
        chance: of a random order.
        image, text: what the image alone and the words alone find.
    """

    part: str
    metric: str
    value: float
    interval: tuple[float, float]
    chance: float
    image: float
    text: float


@dataclass
class EvaluatedQueries:
    """What composed queries found.

    Attributes:
        set: which.
        gallery: images that were searched.
        scores: of each part and measure.
    """

    __repr__ = in_short

    index: Path
    file: Path
    set: str
    compose: str
    queries: int
    gallery: int
    scores: list[Score] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@keywords(SearchOptions, EvaluateOptions)
def evaluate_queries(
    index: str | Path,
    evaluate: str | Path,
    *,
    device: str = "auto",
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reading: Mapping[str, Any] | None = None,
    **given: Any,
) -> EvaluatedQueries:
    """Score the composed queries of a set against an index of its images, beside the image and the words alone.

    Args:
        index: a folder that `index` wrote.
        evaluate: the set's own file; see `composed_sets`.
        given: options of `SearchOptions` and `EvaluateOptions`.
        device, backbone, domain, reading: as of `search`.

    Raises:
        ConfigError: an option is not usable here. DataError: the file cannot be read, or the index lacks its images.
        CapabilityError: another backbone or preprocessing than that of the index.
    """
    names = {each.name for each in options_of(EvaluateOptions)}
    how = options_from(EvaluateOptions, {name: given.pop(name) for name in names & given.keys()}, "search")
    asked = options_from(SearchOptions, given, "search")
    for each in options_of(SearchOptions):
        if each.name not in USED and getattr(asked, each.name) != each.default:
            raise ConfigError(f"--{each.name.replace('_', '-')}: --evaluate does not use it; omit it")
    file, composition = Path(evaluate), composition_of(asked)
    composed = read_composed(file, None if how.gallery is None else Path(how.gallery))
    opened, _, _, encode = opened_index(index, asked, Wanted(), composition, device, backbone, domain, reading)
    if opened.info["holds"] == TEXTS:
        raise DataError(f"{opened.path}: holds texts; --evaluate needs an index of images")
    places = _places(opened, composed, file)
    allowed = None
    if composed.gallery is not None:
        allowed = np.zeros(sum(segment.count for segment in opened.segments), bool)
        allowed[[places[name] for name in composed.gallery if name in places]] = True
    size = len(opened) if allowed is None else int(allowed.sum())
    measured = _Measured(composed, how.at or AT[composed.name], size)
    for start in range(0, len(composed.queries), QUERIES_AT_ONCE):
        some = composed.queries[start : start + QUERIES_AT_ONCE]
        ways = _factors(some, encode, places, file)
        measured.add(some, *_ranked(opened, some, ways, places, allowed, composed.name == CIRR))
    done = EvaluatedQueries(opened.path, file, composed.name, composition.name, len(composed.queries), size)
    done.scores = measured.scores()
    if absent := len((composed.gallery or set()) - places.keys()):
        done.notes.append(f"{absent:,} images of the set are not in the index; scores are those without them.")
    return done


def _places(opened: RetrievalIndex, composed: ComposedSet, file: Path) -> dict[str, int]:
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


def _factors(
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


@dataclass(frozen=True)
class _Ranks:
    """Of one way: of all targets (Q, R), of the first among all (Q, 1), and in its set (Q, 1)."""

    every: Tensor
    first: Tensor
    in_set: Tensor | None


def _ranked(
    opened: RetrievalIndex,
    queries: Sequence[ComposedQuery],
    ways: Mapping[str, Tensor],
    places: Mapping[str, int],
    allowed: np.ndarray | None,
    without_reference: bool,
) -> tuple[Tensor, dict[str, _Ranks]]:
    """How many targets each query has, and the ranks of each way; the gallery goes by twice, block by block."""
    targets = _Marks.of([[places[name] for name in query.targets] for query in queries])
    members = _Marks.of([[places[name] for name in query.members] for query in queries])
    references = _Marks.of([[places[query.reference]] if without_reference else [] for query in queries])
    of_targets = {way: targets.empty() for way in ways}
    of_members = {way: members.empty() for way in ways}
    for way, numbers, scores in _blocks(opened, ways, allowed):
        targets.gather(numbers, scores, of_targets[way])
        members.gather(numbers, scores, of_members[way])
    every = {way: metrics.TargetRanks(scores) for way, scores in of_targets.items()}
    first = {way: metrics.TargetRanks(scores[:, :1]) for way, scores in of_targets.items()}
    for way, numbers, scores in _blocks(opened, ways, allowed):
        references.leave_out(numbers, scores)
        targets.first.leave_out(numbers, scores)
        first[way].count(scores)
        targets.leave_out(numbers, scores)
        every[way].count(scores)
    in_set: dict[str, Tensor | None] = dict.fromkeys(ways)
    if members.width:
        own = torch.tensor([query.members.index(query.targets[0]) for query in queries])[:, None]
        in_set = {way: metrics.target_ranks(scores, own) for way, scores in of_members.items()}
    counts = (targets.places >= 0).sum(dim=1)
    return counts, {way: _Ranks(every[way].ranks, first[way].ranks, in_set[way]) for way in ways}


def _blocks(
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
class _Marks:
    """Rows of the gallery that belong to queries, (Q, R), -1 where there are fewer."""

    places: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> _Marks:
        width = max(map(len, rows))
        padded = torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], dtype=torch.int64)
        return cls(padded.view(len(rows), width))

    @property
    def width(self) -> int:
        return self.places.shape[1]

    @property
    def first(self) -> _Marks:
        return _Marks(self.places[:, :1].contiguous())

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


class _Measured:
    """Values of each query, gathered, and what they come to.

    Args:
        size: images that are searched.
    """

    def __init__(self, composed: ComposedSet, at: Sequence[int], size: int):
        self._set, self._at, self._size = composed, tuple(at), size
        self._values: dict[tuple[str, str], list[Tensor]] = {}
        self._chance: dict[str, list[Tensor]] = {}

    def add(self, queries: Sequence[ComposedQuery], counts: Tensor, ranks: Mapping[str, _Ranks]) -> None:
        for way, each in ranks.items():
            for metric, values in self._of(each).items():
                self._values.setdefault((metric, way), []).append(values.double())
        for metric, values in self._by_chance(queries, counts).items():
            self._chance.setdefault(metric, []).append(values)

    def _of(self, ranks: _Ranks) -> dict[str, Tensor]:
        """Measure -> (Q,), as the set is published."""
        if self._set.name == DOMAINS:
            shares = {f"R@{k}": metrics.recall(ranks.every, k) for k in self._at}
            shares |= {f"P@{k}": metrics.precision(ranks.every, k) for k in self._at}
            return {"mAP": metrics.average_precision(ranks.every), **shares}
        recalls = {f"R@{k}": metrics.is_found(ranks.first, k) for k in self._at}
        if self._set.name == CIRCO:
            return {**{f"mAP@{k}": metrics.average_precision_at(ranks.every, k) for k in self._at}, **recalls}
        if ranks.in_set is None:
            return recalls
        recalls |= {f"Rs@{k}": metrics.is_found(ranks.in_set, k) for k in IN_SET_AT}
        if 5 in self._at:
            recalls["mean of R@5 and Rs@1"] = (recalls["R@5"].double() + recalls["Rs@1"]) / 2
        return recalls

    def _by_chance(self, queries: Sequence[ComposedQuery], counts: Tensor) -> dict[str, Tensor]:
        """The same of a random order."""
        size = self._size
        if self._set.name == DOMAINS:
            shares = {f"R@{k}": metrics.random_recall(counts, size, k) for k in self._at}
            shares |= {f"P@{k}": metrics.random_precision(counts, size, k) for k in self._at}
            return {"mAP": metrics.random_average_precision(counts, size), **shares}
        one = torch.ones_like(counts)
        recalls = {f"R@{k}": metrics.random_is_found(one, size - (self._set.name == CIRR), k) for k in self._at}
        if self._set.name == CIRCO:
            chance = {f"mAP@{k}": metrics.random_average_precision_at(counts, size, k) for k in self._at}
            return {**chance, **recalls}
        if self._set.name == CIRR:
            members = torch.tensor([len(query.members) for query in queries])
            recalls |= {f"Rs@{k}": metrics.random_is_found(one, members, k) for k in IN_SET_AT}
            if 5 in self._at:
                recalls["mean of R@5 and Rs@1"] = (recalls["R@5"] + recalls["Rs@1"]) / 2
        return recalls

    def scores(self) -> list[Score]:
        """One row per measure; of several parts, of each and of their mean."""
        names = list(self._chance)
        values = {key: torch.cat(some) for key, some in self._values.items()}
        chance = {key: torch.cat(some) for key, some in self._chance.items()}
        parts = list(dict.fromkeys(query.part for query in self._set.queries))
        of_part = {part: [i for i, query in enumerate(self._set.queries) if query.part == part] for part in parts}
        references = np.array([query.reference for query in self._set.queries])
        rows = []
        for part, some in of_part.items():
            groups = references[some].tolist()
            for metric in names:
                own, random = values[metric, ""][some], float(chance[metric][some].mean())
                alone = [float(values[metric, way][some].mean()) for way in (IMAGE, WORDS)]
                rows.append(Score(part, metric, float(own.mean()), _interval(own, groups), random, *alone))
        return rows if len(parts) < 2 else [*rows, *(self._mean(metric, rows) for metric in names)]

    def _mean(self, metric: str, rows: Sequence[Score]) -> Score:
        """Over parts. Those from one domain ask with the same images, and err together."""
        own = [row for row in rows if row.metric == metric]
        sources = [row.part.partition(" to ")[0] for row in own]

        def together(errors: np.ndarray) -> np.ndarray:
            sums = [errors[..., [s == source for s in sources]].sum(axis=-1) for source in dict.fromkeys(sources)]
            return np.square(sums).sum(axis=0)

        limits = np.array([row.interval[0] for row in own]), np.array([row.interval[1] for row in own])
        low, high = mover([row.value for row in own], limits, together)
        means = (float(np.mean([getattr(row, name) for row in own])) for name in ("value", "chance", IMAGE, WORDS))
        value, chance, image, text = means
        return Score(MEAN, metric, value, (max(0.0, float(low)), min(1.0, float(high))), chance, image, text)


def _interval(values: Tensor, groups: Sequence[str]) -> tuple[float, float]:
    is_share = bool(((values == 0) | (values == 1)).all())
    low, high = share_interval(values > 0, groups) if is_share else mean_interval(values.clamp(0, 1), groups)
    return float(low), float(high)
