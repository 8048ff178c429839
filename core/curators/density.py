"""Density-based pruning: of dense, redundant clusters fewer pairs are kept than of wide, lonely ones.

Effective pruning of web-scale datasets based on complexity of concept clusters, 2024 (arXiv 2401.04578).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ._kmeans import cluster, features_option, number_of_clusters
from .prototypes import ranks_within

MOST_CLUSTERS = 500
HALVINGS = 100


@dataclass(eq=False, kw_only=True)
class Density(Curator):
    """The complexity of a cluster of k-means is the product of the mean distance d_intra of its pairs to its centroid
    and the mean distance d_inter of this to the nearest other centroids, 1 - cosine each, and

        p = softmax(d_intra d_inter / temperature).

    Of n pairs that are kept in all, cluster k keeps as many as are nearest to p_k n, in squares over all clusters, at
    least `balance` times an equal part, and at most all that it has. The solution of this quadratic program is p_k n,
    shifted by one number for all, and clipped. In each cluster the pairs that are farthest from its centroid stay. It
    is meant for what `sem-dedup` leaves, since copies make clusters dense.

    Example:
        >>> build_curator("density", fraction=0.5).decide_all(pairs).keep.sum()
        500
    """

    stage: ClassVar[str] = "prune"

    fraction: float = option(0.5, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    balance: float = option(
        0.5,
        "share of an equal part of what is kept that each cluster keeps at least; 0 for one pair",
        low=0.0,
        high=1.0,
    )
    temperature: float = option(0.5, "of the softmax over clusters; higher is more equal", above=0.0)
    neighbours: int = option(20, "nearest other centroids, whose mean distance counts", low=1)
    clusters: int | None = option(
        None,
        "number of clusters of k-means; by default half the square root of the pairs, at most 500",
        low=1,
    )
    features: str = features_option()
    seed: int = option(0, "fixes the clusters", low=0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        count = self.clusters or min(MOST_CLUSTERS, number_of_clusters(len(pairs)))
        clusters = cluster(pairs, self.features, count, self.seed, progress)
        distance, of, sizes = 1 - clusters.similarity, clusters.nearest[:, 0], clusters.sizes
        intra = np.bincount(of, weights=distance, minlength=len(sizes)) / np.maximum(sizes, 1)
        inter = centroid_distances(clusters.centroids, self.neighbours)
        share = cluster_shares(np.where(sizes > 0, intra * inter, np.nan), self.temperature)
        counts = counts_to_keep(share, sizes, max(1, int(len(pairs) * self.fraction)), self.balance)
        return Survey(
            {"centroids": clusters.centroids, "size": sizes, "d_intra": intra, "d_inter": inter, "kept": counts},
            {"keep": ranks_within(distance, of) < counts[of], "distance": distance},
        )

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        return Decision.of(
            {"redundant in its cluster": ~survey.rows["keep"]}, scores={"distance": survey.rows["distance"]}
        )


def centroid_distances(centroids: np.ndarray, neighbours: int = 20) -> np.ndarray:
    """(K,) mean of 1 - inner product to the nearest other centroids; NaN of the only one.

    Args:
        centroids: (K, D).
        neighbours: how many; all others where there are fewer.
    """
    count = min(neighbours, len(centroids) - 1)
    if not count:
        return np.full(len(centroids), np.nan)
    products = (centroids @ centroids.T).astype(np.float64)
    np.fill_diagonal(products, -np.inf)
    nearest = -np.partition(-products, count - 1, axis=1)[:, :count]  # (K, count)
    return 1 - nearest.mean(axis=1)


def cluster_shares(complexity: np.ndarray, temperature: float = 0.5) -> np.ndarray:
    """(K,) softmax of the complexities; one that is not known counts as the mean of the others."""
    complexity = np.asarray(complexity, np.float64)
    known = ~np.isnan(complexity)
    logits = np.where(known, complexity, complexity[known].mean() if known.any() else 0.0) / temperature
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def counts_to_keep(share: np.ndarray, sizes: np.ndarray, total: int, balance: float = 0.5) -> np.ndarray:
    """(K,) int64, how many pairs of each cluster are kept, `total` in all.

    Minimises sum_k (n_k - p_k n)^2 subject to sum_k n_k = n and lo_k <= n_k <= size_k, with
    lo_k = min(int(n / K balance), size_k - 1), and 1 where balance is 0. By its Karush-Kuhn-Tucker conditions
    n_k = clip(p_k n + m, lo_k, size_k) with one m, found by bisection since the sum increases with it. Fractions are
    rounded so that the sum holds: the largest up, of equals the first.

    Args:
        share: (K,) p.
        sizes: (K,) pairs in each cluster.
        total: n, at most their sum.
        balance: share of an equal part.
    """
    quotas = share * total
    least = np.minimum(int(total / len(sizes) * balance), sizes - 1) if balance else np.minimum(1, sizes)
    least = np.maximum(least, 0)
    if least.sum() > total:  # fewer pairs than clusters
        least = np.zeros_like(sizes)
    low, high = -float(quotas.max()) - 1, float(sizes.max()) + 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if np.clip(quotas + middle, least, sizes).sum() < total:
            low = middle
        else:
            high = middle
    exact = np.clip(quotas + high, least, sizes)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((counts - exact, counts >= sizes))  # what can take one more, the largest fraction first
    counts[order[: total - counts.sum()]] += 1
    return counts
