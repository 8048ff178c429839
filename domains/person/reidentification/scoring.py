"""How well the features of a tower find a person again: Rank-1, 5 and 10, mAP and mINP, whole and by camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.backbones import searched
from ....core.contracts import Backbone, Decoded, DomainData
from ....core.errors import DataError
from ....core.runtime import Reporter
from ....core.tasks import DomainPairs, ExchangeComparison, PairEncoding
from ..camera_ranking import CameraRanking, ranked, ranked_by_features
from ..reciprocal import K1, K2, WEIGHT, memory_in_words, re_ranked
from .protocol import SearchedSplit

LEAST_QUERIES = 5
"""Of an attribute, for a row of its own."""


@dataclass(frozen=True)
class Reranking:
    """Settings of k-reciprocal re-ranking."""

    k1: int = K1
    k2: int = K2
    weight: float = WEIGHT

    def in_words(self) -> str:
        return f"k1 {self.k1}, k2 {self.k2}, {self.weight:g} of the distance itself"


@dataclass
class ReidScores:
    """Re-identification by one model on one split.

    Attributes:
        protocol: of the pictures that could be read.
        ranking: of its queries.
        unit: (N, D) features of its pictures, unit rows, on the CPU.
        reranked: after re-ranking, or None.
        skipped: (id, reason) of pictures left out.
        words: how it was computed, for the table.
    """

    protocol: SearchedSplit
    ranking: CameraRanking
    unit: Tensor
    reranked: CameraRanking | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    words: str = ""

    @property
    def people(self) -> Tensor:
        """(Q,) the identity of each query that was ranked."""
        return torch.tensor(self.protocol.identities)[torch.tensor(self.protocol.queries)][self.ranking.query]

    def by_camera(self, ranking: CameraRanking) -> dict[str, dict[str, float]]:
        """Camera of the query -> queries, r1, map and minp."""
        cameras = [self.protocol.cameras[self.protocol.queries[query]] for query in ranking.query.tolist()]
        rows = {}
        for camera in sorted(set(cameras), key=lambda name: (not name.isdigit(), name.zfill(9))):
            some = ranking.of(torch.tensor([each == camera for each in cameras]))
            rows[camera] = _row(some)
        return rows

    def by_attribute(self, ranking: CameraRanking, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Attribute that the person of a query has -> the same, of those that some queries have and some have not.

        Args:
            names: of the attributes.
        """
        queries = [self.protocol.items[self.protocol.queries[query]] for query in ranking.query.tolist()]
        rows = {}
        for number, name in enumerate(names):
            has = torch.tensor([(item.target.attributes or ())[number : number + 1] == (1.0,) for item in queries])
            if LEAST_QUERIES <= int(has.sum()) < len(queries):
                rows[name] = _row(ranking.of(has))
        return rows


def evaluate_reid(
    backbone: Backbone,
    data: DomainData,
    protocol: SearchedSplit,
    transform: Callable[[Decoded], Tensor],
    *,
    reranking: Reranking | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    amp: str | None = None,
    reporter: Reporter | None = None,
) -> ReidScores:
    """Features of all pictures of a split, and where its queries find their people.

    Features are compared by their cosine; where the training's loss makes more of them (`Loss.finds`, BNNeck), by that.
    Under torchrun pictures are encoded by all ranks, and every rank returns the same.

    Args:
        backbone: its towers as they are now.
        data: that decodes the pictures.
        transform: decoded image -> pixels.
        reranking: its settings; None for none.
        batch_size, workers, amp, reporter: as of `evaluate_retrieval`.

    Raises:
        DataError: too many pictures cannot be read, or nothing is left to retrieve.
    """
    reporter = reporter or Reporter(quiet=True)
    options = PairEncoding(transform, batch_size, workers, amp, reporter, None, data.tolerate)
    rows, kept, skipped = options.image_rows(searched(backbone), DomainPairs(data, protocol.items))
    protocol, unit = protocol.only(kept), F.normalize(rows, dim=1)
    finder = backbone.finder
    words = "cosines of features" if finder is None else f"cosines of what the loss '{finder.name}' makes of features"
    if not torch.isfinite(unit).all():
        raise DataError("features hold NaN or infinity; train with a lower rate, or without amp")
    queries, gallery = unit[list(protocol.queries)], unit[list(protocol.gallery)]
    sought = protocol.sought
    scores = ReidScores(protocol, ranked_by_features(queries, gallery, sought), unit, skipped=skipped, words=words)
    if reranking is None:
        return scores
    reporter.info(f"Re-ranking: {memory_in_words(len(queries), len(gallery), reranking.k1)}")
    final = re_ranked(queries, gallery, reranking.k1, reranking.k2, reranking.weight, sought.own)
    return replace(scores, reranked=ranked(lambda some: final[some], sought, worst_first=True))


def _row(ranking: CameraRanking) -> dict[str, float]:
    found = ranking.metrics()
    return {"queries": len(ranking), **{name: found[name] for name in ("r1", "map", "minp")}}


def flat_reid_scores(
    before: ReidScores | None, after: ReidScores, attributes: Sequence[str] = (), reranking: Reranking | None = None
) -> dict[str, Any]:
    """Both scores in the shape of metrics.json.

    Args:
        attributes: names of those that the data give.
        reranking: how was re-ranked, if at all.

    Returns:
        {"zero_shot": {"r1", "r5", "r10", "map", "minp", "map_trapezoid"} or None, "adapted": the same, "reranked": the
        same or None, "test_images", "test_queries", "test_gallery", "test_identities", "intervals": {"adapted": {"r1":
        [low, high], ...}, ...}, "by_camera": {"adapted": {camera: {"queries", "r1", "map", "minp"}}, ...},
        "by_attribute": the same, "exchange": {"r1": {"difference", "p_value"}, "map": ...} or None, "protocol",
        "compared_by" and, where there was one, "reranking": sentences}. Intervals draw identities, and the paired
        permutation test exchanges them.
    """
    sides = {"zero_shot": before, "adapted": after}
    found = {when: None if one is None else one.ranking for when, one in sides.items()} | {"reranked": after.reranked}
    known = {when: ranking for when, ranking in found.items() if ranking is not None}
    protocol = after.protocol
    return {
        **{when: None if ranking is None else ranking.metrics() for when, ranking in found.items()},
        "test_images": len(protocol.items),
        "test_queries": len(after.ranking),
        "test_gallery": len(protocol.gallery),
        "test_identities": int(after.people.unique().numel()),
        "intervals": {when: ranking.intervals(after.people) for when, ranking in known.items()},
        "by_camera": {when: after.by_camera(ranking) for when, ranking in known.items()},
        "by_attribute": {when: after.by_attribute(ranking, attributes) for when, ranking in known.items()},
        "exchange": None if before is None else _exchanged(before, after),
        "protocol": protocol.in_words(),
        "compared_by": after.words,
        **({} if reranking is None else {"reranking": reranking.in_words()}),
    }


def _exchanged(before: ReidScores, after: ReidScores) -> dict[str, dict[str, float]]:
    if before.protocol.items != after.protocol.items:
        raise DataError("re-identification before and after is of different pictures; evaluate both on one set")
    old, new = before.ranking.values(), after.ranking.values()
    people = [f"person {each}" for each in after.people.tolist()]
    return ExchangeComparison.tests(old, new, ("r1", "map"), people)
