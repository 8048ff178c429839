"""`search --evaluate`: how often composed queries of a published set find what is right in an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.options import keywords, options_from, options_of
from ..contracts.shown import in_short
from ..errors import ConfigError, DataError
from ..metrics import composed as metrics
from ..metrics.intervals import mover, share_interval
from ..retrieval.composed_sets import (
    CIRCO,
    CIRR,
    DOMAINS,
    FASHION_IQ,
    ComposedQuery,
    ComposedSet,
    read_composed,
    read_parts,
)
from ..retrieval.index import TEXTS, RetrievalIndex
from ..retrieval.wanted import Wanted
from ..runs.sections import errors_worded
from .composed_gallery import (
    IMAGE,
    QUERIES_AT_ONCE,
    WORDS,
    Marks,
    image_places,
    query_factors,
    score_blocks,
    searched_rows,
)
from .options import EvaluateOptions, SearchOptions
from .queries import composition_of
from .search import index_words, opened_index
from .search_submission import check_submission, write_submission

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
        gallery: images that were searched; of several kinds of clothes their sum.
        scores: of each part and measure; none where answers are written.
        files: answers for the server of the set.
    """

    __repr__ = in_short

    index: Path
    file: Path
    set: str
    compose: str
    queries: int = 0
    gallery: int = 0
    scores: list[Score] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@keywords(SearchOptions, EvaluateOptions)
@errors_worded(index_words)
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
    for option in options_of(SearchOptions):
        if option.name not in USED and getattr(asked, option.name) != option.default:
            raise ConfigError(f"--{option.name.replace('_', '-')}: --evaluate does not use it; omit it")
    file, composition = Path(evaluate), composition_of(asked)
    answers = None if how.submission is None else Path(how.submission)
    if answers is not None and how.at:
        raise ConfigError("--at: with --submission the server scores; omit it")
    sets = _sets(file, how.gallery, answers)
    opened, _, _, encode = opened_index(index, asked, Wanted(), composition, device, backbone, domain, reading)
    if opened.info.holds == TEXTS:
        raise DataError(f"{opened.path}: holds texts; --evaluate needs an index of images")
    placed = [(each, image_places(opened, each, file)) for each in sets]
    done = EvaluatedQueries(opened.path, file, sets[0].name, composition.name)
    for each, places in placed:
        allowed, size = searched_rows(opened, each, places)
        done.queries, done.gallery = done.queries + len(each.queries), done.gallery + size
        if answers is not None:
            done.files += write_submission(opened, each, encode, places, allowed, file, answers)
            continue
        measured = _Measured(each, how.at or AT[each.name], size)
        for start in range(0, len(each.queries), QUERIES_AT_ONCE):
            some = each.queries[start : start + QUERIES_AT_ONCE]
            ways = query_factors(some, encode, places, file)
            measured.add(some, *_ranked(opened, some, ways, places, allowed, each.name == CIRR))
        done.scores += measured.scores()
        if absent := len((each.gallery or set()) - places.keys()):
            done.notes.append(f"{absent:,} images of the set are not in the index; scores are those without them.")
    done.scores += _means(done.scores)
    return done


def _sets(file: Path, gallery: str | None, answers: Path | None) -> list[ComposedSet]:
    """What is asked: with what is right, or for answers that a server judges."""
    others = None if gallery is None else Path(gallery)
    if answers is None:
        return read_parts(file, others)
    composed = read_composed(file, others, truth=False)
    check_submission(composed, file, answers)
    return [composed]


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
    targets = Marks.of([[places[name] for name in query.targets] for query in queries])
    members = Marks.of([[places[name] for name in query.members] for query in queries])
    references = Marks.of([[places[query.reference]] if without_reference else [] for query in queries])
    of_targets = {way: targets.empty() for way in ways}
    of_members = {way: members.empty() for way in ways}
    for way, numbers, scores in score_blocks(opened, ways, allowed):
        targets.gather(numbers, scores, of_targets[way])
        members.gather(numbers, scores, of_members[way])
    every = {way: metrics.TargetRanks(scores) for way, scores in of_targets.items()}
    first = {way: metrics.TargetRanks(scores[:, :1]) for way, scores in of_targets.items()}
    for way, numbers, scores in score_blocks(opened, ways, allowed):
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
            return {"mAP": metrics.composed_average_precision(ranks.every), **shares}
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
        """One row per measure and part."""
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
        return rows


def _means(rows: Sequence[Score]) -> list[Score]:
    """Of each measure the mean over parts; none where there are no parts."""
    several = len({row.part for row in rows}) > 1
    return [_mean(metric, rows) for metric in dict.fromkeys(row.metric for row in rows)] if several else []


def _mean(metric: str, rows: Sequence[Score]) -> Score:
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
    low, high = share_interval(values.clamp(0, 1), groups)
    return low, high
