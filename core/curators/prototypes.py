"""SSL prototypes: pairs are kept by how far they lie from the nearest centroid.

Beyond neural scaling laws: beating power law scaling via data pruning, 2022 (arXiv 2206.14486).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ._kmeans import cluster, clusters_option, features_option

PROTOTYPICAL, UNTYPICAL = "near its centroid", "far from its centroid"


@dataclass(eq=False, kw_only=True)
class Prototypes(Curator):
    """A pair is as difficult as it is far from the nearest centroid of k-means, its prototype: 1 - cosine. The hardest
    are kept, which is better where data are plentiful, or the easiest, which is better where they are scarce.

    Clusters of which little would stay are guarded by `balance`: of each, the first to be kept stay, as many as this
    share of an equal part of all that is kept, or the whole of a smaller cluster. The other places go to the first of
    all the rest.

    The hardest pairs of a set that was not cleaned are its errors.

    Example:
        >>> build_curator("prototypes", fraction=0.5).decide_all(pairs).keep.sum()
        500
    """

    stage: ClassVar[str] = "prune"

    fraction: float = option(0.8, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    which: str = option(
        "hardest",
        "which pairs are kept: the hardest, far from their centroids, or the easiest, near them",
        choices=("hardest", "easiest"),
    )
    balance: float = option(
        0.5, "share of an equal part of what is kept that each cluster keeps at least; 0 for none", low=0.0, high=1.0
    )
    clusters: int | None = clusters_option()
    features: str = features_option()
    seed: int = option(0, "fixes the clusters", low=0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        clusters = cluster(pairs, self.features, self.clusters, self.seed, progress)
        distance, count = 1 - clusters.similarity, max(1, int(len(pairs) * self.fraction))
        keep = by_difficulty(distance, clusters.nearest[:, 0], count, self.which, self.balance)
        return Survey({"centroids": clusters.centroids}, {"keep": keep, "distance": distance})

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rule = PROTOTYPICAL if self.which == "hardest" else UNTYPICAL
        return Decision.of({rule: ~survey.rows["keep"]}, scores={"distance": survey.rows["distance"]})


def by_difficulty(
    distance: np.ndarray, clusters: np.ndarray, count: int, which: str = "hardest", balance: float = 0.0
) -> np.ndarray:
    """(N,) flags of the `count` pairs that are kept; of equals the smaller position first.

    Args:
        distance: (N,) from the nearest centroid.
        clusters: (N,) whose it is.
        which: "hardest" or "easiest".
        balance: share of an equal part that each cluster keeps at least.
    """
    difficulty = distance if which == "hardest" else -distance
    rank_in_cluster = ranks_within(difficulty, clusters)
    sizes = np.bincount(clusters)
    least = int(balance * count / max(1, np.count_nonzero(sizes)))
    order = np.lexsort((-difficulty, rank_in_cluster >= least))
    keep = np.zeros(len(distance), bool)
    keep[order[:count]] = True
    return keep


def ranks_within(difficulty: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(N,) place of each pair in its cluster, 0 for the most difficult; of equals the smaller position first."""
    order = np.lexsort((-difficulty, clusters))
    starts = np.concatenate([[0], np.cumsum(np.bincount(clusters))])
    ranks = np.empty(len(clusters), np.int64)
    ranks[order] = np.arange(len(clusters)) - starts[clusters[order]]
    return ranks
