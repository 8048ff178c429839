"""How well moments are found: recall of the first windows at several overlaps, beside that of guessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.backbones import searched
from ....core.contracts import Backbone, DomainData, Item
from ....core.data import check_tolerated
from ....core.errors import DataError
from ....core.features import FeatureStore
from ....core.metrics import share_interval
from ....core.runtime import Reporter
from ....core.tasks import ExchangeComparison
from ..long_videos import frame_features
from .reading import MomentQuery, queries_of
from .windows import Windows, in_seconds, span_overlaps

OVERLAPS = (0.3, 0.5, 0.7)
FIRST = (1, 5)
MEAN = "mIoU"
DECIDING = "recall1_iou_0.5"
GUESSES, MOST_GUESSES = 100, 20_000
"""Random orders of windows per query, and of all queries together."""


@dataclass(frozen=True)
class Found:
    """What one sentence finds in one video.

    Attributes:
        query: the sentence, with its true times; none where nobody knows them.
        spans: (K, 2) seconds, the best first.
        scores: (K,).
        similarity: (T,) of each frame with the sentence.
        seconds: of the video.
    """

    query: MomentQuery
    spans: Tensor
    scores: Tensor
    similarity: Tensor
    seconds: float


@dataclass
class MomentScores:
    """Moments found by one model.

    Attributes:
        found: of each query.
        videos: items, which `Query.video` counts.
        values: metric -> (Q,) of each query; the metric is their mean.
        guessed: the same of windows in random order.
        skipped: (id, reason) of videos and sentences left out.
    """

    found: list[Found]
    videos: list[Item]
    values: dict[str, Tensor]
    guessed: dict[str, Tensor]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def unit(self) -> Tensor:
        """(Q,) the video of each query, from 0 without gaps."""
        return torch.tensor([each.query.video for each in self.found]).unique(return_inverse=True)[1]

    def metrics(self) -> dict[str, float]:
        return {name: float(of.mean()) for name, of in self.values.items()}

    def guesses(self) -> dict[str, float]:
        return {name: float(of.mean()) for name, of in self.guessed.items()}

    def intervals(self) -> dict[str, list[float]]:
        """Metric -> its 95 % interval, of which videos count; none of a single video."""
        if len(self.unit.unique()) < 2:
            return {}
        return {name: share_interval(of, self.unit) for name, of in self.values.items()}


def evaluate_moments(
    backbone: Backbone,
    data: DomainData,
    items: Sequence[Item],
    transform: Any,
    fps: float,
    windows: Windows,
    *,
    store: FeatureStore,
    reporter: Reporter | None = None,
    **how: Any,
) -> MomentScores:
    """Search each video for each of its sentences.

    Args:
        backbone: its towers as they are now.
        data: whose `load` decodes.
        items: moments with their sentences and times.
        transform: decoded frames -> pixels.
        fps: frames per second that are looked at.
        store: of features; one that keeps nothing for towers that a fit made.
        how: "amp", "batch_size" and "workers" of the store.

    Raises:
        DataError: the videos of too many sentences cannot be used, or of all.
    """
    videos, queries = queries_of(items)
    found, skipped = search_videos(
        backbone, data, videos, queries, transform, fps, windows, store=store, reporter=reporter, **how
    )
    check_tolerated(replace(data, items=list(items), skipped=[]), skipped)
    if not found:
        raise DataError(f"{data.name}: no sentence is left to search for; {skipped[0][0]}: {skipped[0][1]}")
    values = _stacked([_judged(_reached(each.spans, each.query)[None]) for each in found])
    draws = max(1, min(GUESSES, MOST_GUESSES // len(found)))
    generator = torch.Generator().manual_seed(0)
    guessed = _stacked([_guessed(each, windows, fps, draws, generator) for each in found])
    return MomentScores(found, videos, values, guessed, skipped)


def search_videos(
    backbone: Backbone,
    data: DomainData,
    videos: Sequence[Item],
    queries: Sequence[MomentQuery],
    transform: Any,
    fps: float,
    windows: Windows,
    *,
    store: FeatureStore,
    top: int = max(FIRST),
    reporter: Reporter | None = None,
    **how: Any,
) -> tuple[list[Found], list[tuple[str, str]]]:
    """What each sentence finds in its video, one video after the other, and (id, reason) of what was left out."""
    tower, reporter = searched(backbone), reporter or Reporter(quiet=True)
    distinct = {text: place for place, text in enumerate(dict.fromkeys(query.text for query in queries))}
    texts = F.normalize(store.text_features(tower, list(distinct)), dim=-1)  # (M, D)
    of_video: dict[int, list[MomentQuery]] = {}
    for query in queries:
        of_video.setdefault(query.video, []).append(query)
    found: list[Found] = []
    skipped: list[tuple[str, str]] = []
    with reporter.task("Searching videos", unit="videos") as progress:
        features = frame_features(store, data, tower, transform, videos, fps, **how)
        for place, (seconds, rows) in enumerate(features):
            asked = of_video[place]
            if isinstance(rows, str):
                skipped += [(query.id, rows) for query in asked]
            else:
                unit = texts[[distinct[query.text] for query in asked]]
                found += _search(unit @ rows.T, asked, seconds, fps, windows, top)
            progress(place + 1, len(videos))
    return found, skipped


def flat_moment_scores(before: MomentScores | None, after: MomentScores) -> dict[str, Any]:
    """Both scores in the shape of metrics.json.

    Returns:
        {"zero_shot": metrics or None, "adapted": metrics, "guessing": metrics, "intervals": {"adapted": {metric: [low,
        high]}, ...}, "test_images": videos, "test_queries": sentences, "exchange": {metric: {"difference", "p_value"}}
        of a permutation test that exchanges the answers about whole videos, or None}.
    """
    sides, exchange = {"adapted": after}, None
    if before is not None:
        sides["zero_shot"] = before
        videos = [str(unit) for unit in after.unit.tolist()]
        exchange = ExchangeComparison.tests(before.values, after.values, (DECIDING, MEAN), videos)
    return {
        "zero_shot": None if before is None else before.metrics(),
        "adapted": after.metrics(),
        "guessing": after.guesses(),
        "intervals": {when: scores.intervals() for when, scores in sides.items()},
        "test_images": len(after.unit.unique()),
        "test_queries": len(after.found),
        "exchange": exchange,
    }


def _search(
    similarity: Tensor, queries: Sequence[MomentQuery], seconds: float, fps: float, windows: Windows, top: int
) -> list[Found]:
    """(Q, T) similarities of the sentences about one video -> what each finds."""
    places = windows.places(similarity.shape[1], fps)
    spans, scores = in_seconds(places, fps, seconds), windows.scores(similarity, places)
    best = [windows.best(row, spans, top) for row in scores]
    return [
        Found(query, spans[rows], of[rows], frames, seconds)
        for query, rows, of, frames in zip(queries, best, scores, similarity, strict=True)
    ]


def _reached(spans: Tensor, query: MomentQuery) -> Tensor:
    """(K,) overlap of each window with the moment; of several moments the best counts."""
    return span_overlaps(spans, torch.tensor(query.spans)).amax(dim=1)


def _judged(reached: Tensor) -> dict[str, Tensor]:
    """Recalls of lists of windows, and the overlap of the first of each, (N,) by metric.

    Args:
        reached: (N, K) overlaps, the best window first.
    """
    recalls = {
        f"recall{first}_iou_{least:g}": (reached[:, :first] >= least).any(dim=1).double()
        for first in FIRST
        for least in OVERLAPS
    }
    return {**recalls, MEAN: reached[:, 0]}


def _guessed(found: Found, windows: Windows, fps: float, draws: int, generator: torch.Generator) -> dict[str, float]:
    """What the same windows reach on average in random order, thinned out in the same way."""
    spans = in_seconds(windows.places(len(found.similarity), fps), fps, found.seconds)
    reached, of_draws = _reached(spans, found.query), torch.zeros(draws, max(FIRST), dtype=torch.float64)
    for row, order in zip(of_draws, torch.rand(draws, len(spans), generator=generator)):
        best = windows.best(order, spans, max(FIRST))
        row[: len(best)] = reached[best]
    return {name: float(of.mean()) for name, of in _judged(of_draws).items()}


def _stacked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in rows[0]}
