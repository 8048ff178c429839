"""SemDeDup: of pairs that say the same to an encoder, one is kept.

SemDeDup: Data-efficient learning at web-scale through semantic deduplication, 2023 (arXiv 2303.09540).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ._kmeans import Clusters, cluster, clusters_option, features_option, unit_rows

COPY = "semantic copy"
QUERIES_AT_ONCE, KEYS_AT_ONCE = 512, 8192
ROWS_AT_ONCE, SAMPLE = 4096, 512
"""Pairs that are compared with all others, to tell how many near pairs clusters miss."""
Read = Callable[[np.ndarray], np.ndarray]
"""(M,) positions in any order -> (M, D) float32 unit rows."""


@dataclass(eq=False, kw_only=True)
class SemDedup(Curator):
    """Pairs are clustered by k-means, and compared within each cluster, in an order: the farthest from its centroid
    first (`hard`), the nearest first (`easy`), or at random. With S the cosines in this order,

        M_j = max over i before j of S_ij, and 0 for the first; pair j is dropped where M_j > 1 - eps.

    So pair j is dropped even where the one that it is like was dropped itself: of a chain a, b, c only a stays,
    although a and c differ. This is the released rule; with `chains="greedy"` a pair is dropped only where it is like
    one that stays. With `fraction`, 1 - eps is the quantile of M by which this share stays under the released rule. Two
    copies that lie on different sides of a border between clusters both stay, unless `borders` has each pair compared
    within the cluster of its second nearest centroid, too. A note tells the share of near pairs that clusters miss.

    What is alike to an encoder need not be copies, as radiographs are not: semantic neighbours never tie pairs into
    groups of one image, which is what `near` and `exact` do.

    For large sets of the web. Do not use it for radiographs, satellite tiles or product shots: it drops what means
    the same to the encoder. `eps` belongs to one encoder; `fraction=0.5` does not. `borders` takes about three
    times the time.

    Example:
        >>> build_curator("sem-dedup", fraction=0.5).decide_all(pairs).keep.sum()
        500
    """

    stage: ClassVar[str] = "dedup"

    eps: float = option(0.07, "pairs of a cluster are copies above a cosine of 1 - eps", above=0.0, high=1.0)
    fraction: float | None = option(None, "share of pairs to keep, from which eps follows", above=0.0, high=1.0)
    which: str = option(
        "hard",
        "which of several copies is kept: the farthest from its centroid, the nearest, or a random one",
        choices=("hard", "easy", "random"),
    )
    chains: str = option(
        "released",
        "what a copy must be like to be dropped: any earlier pair (released), or one that is kept (greedy)",
        choices=("released", "greedy"),
    )
    borders: bool = option(False, "whether pairs are also compared within their second nearest cluster")
    clusters: int | None = clusters_option()
    features: str = features_option()
    seed: int = option(0, "fixes the clusters, and the order of which=random", low=0)

    def __post_init__(self):
        super().__post_init__()
        if self.fraction is not None:
            self.refuse_unused("eps follows from fraction", "eps")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        clusters = cluster(pairs, self.features, self.clusters, self.seed, progress)
        drawn = _drawn(pairs, self.seed, "sem-dedup: order") if self.which == "random" else None
        order = visiting_order(clusters.similarity, self.which, drawn)
        lists = members_in_order(clusters.nearest if self.borders else clusters.nearest[:, :1], order)

        read = partial(pairs.unit, self.features)
        similarity = max_similarities(read, lists, len(pairs), progress)
        limit = 1 - self.eps if self.fraction is None else threshold_of(similarity, self.fraction)
        dropped = similarity > limit
        if self.chains == "greedy":
            dropped = greedily_dropped(read, lists, dropped, limit)
        return Survey(
            whole={"threshold": np.float32([limit]), "centroids": clusters.centroids},
            rows={"dropped": dropped, "max_similarity": similarity, "distance": 1 - clusters.similarity},
            notes=(self._told(dropped, limit), missed_by_clusters(pairs, self.features, clusters, limit, self.seed)),
        )

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        scores = {name: survey.rows[name] for name in ("max_similarity", "distance")}
        return Decision.of({COPY: survey.rows["dropped"]}, scores=scores)

    def _told(self, dropped: np.ndarray, limit: float) -> str:
        return f"{dropped.sum():,} of {len(dropped):,} pairs are semantic copies, above a cosine of {limit:.4g}."


def visiting_order(similarity: np.ndarray, which: str = "hard", drawn: np.ndarray | None = None) -> np.ndarray:
    """(N,) positions in the order in which pairs are visited; of equals the smaller position first.

    Args:
        similarity: (N,) to the nearest centroid.
        which: "hard", "easy" or "random".
        drawn: (N,) numbers whose order is that of "random".
    """
    return np.argsort({"hard": similarity, "easy": -similarity, "random": drawn}[which], kind="stable")


def members_in_order(clusters: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Positions in each cluster that has any, in the order of visits.

    Args:
        clusters: (N, L), of each pair the L clusters that it is compared in.
        order: (N,) of `visiting_order`.
    """
    of_visits = clusters[order].ravel()
    by_cluster = np.argsort(of_visits, kind="stable")
    ends = np.flatnonzero(np.diff(of_visits[by_cluster])) + 1
    return np.split(np.repeat(order, clusters.shape[1])[by_cluster], ends)


def largest_before(rows: np.ndarray) -> np.ndarray:
    """(n,) float32, the largest cosine of each row to one before it, at least 0.

    That is the largest number in each column of the upper triangle of the matrix of cosines, of which no other half is
    computed: triangles on the diagonal by a symmetric rank-k update (BLAS), what is above them by products.

    Args:
        rows: (n, D) float32 unit rows.
    """
    from scipy.linalg.blas import ssyrk

    largest = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        own = rows[start : start + QUERIES_AT_ONCE]
        triangle = ssyrk(1.0, own.T, trans=1)  # (q, q), zero below the diagonal
        np.fill_diagonal(triangle, 0)
        largest[start : start + len(own)] = np.maximum(triangle.max(axis=0), _largest(own, rows[:start]))
    return largest


def largest_among(rows: np.ndarray, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(m,) float32, as `largest_before`, of some rows to some that are before them.

    Args:
        queries: (m,) ascending indices of the rows that are asked for.
        keys: (k,) ascending indices of the rows that they are compared with.
    """
    largest, others = np.zeros(len(queries), np.float32), rows[keys]
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[start : start + QUERIES_AT_ONCE]
        first, stop = np.searchsorted(keys, (some[0], some[-1]))  # keys before all of them, and before any
        within = (rows[some] @ others[first:stop].T) * (keys[first:stop] < some[:, None])
        largest[start : start + len(some)] = np.maximum(
            within.max(axis=1, initial=0), _largest(rows[some], others[:first])
        )
    return largest


def _largest(rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(m,) the largest cosine of each row to any of the keys, at least 0."""
    largest = np.zeros(len(rows), np.float32)
    for start in range(0, len(keys), KEYS_AT_ONCE):
        np.maximum(largest, (rows @ keys[start : start + KEYS_AT_ONCE].T).max(axis=1), out=largest)
    return largest


def max_similarities(
    read: Read, lists: Sequence[np.ndarray], count: int, progress: Progress = lambda done, total: None
) -> np.ndarray:
    """(N,) float32: of each pair the largest cosine to one that is visited before it, in any list that has both.

    Args:
        lists: of `members_in_order`.
        count: N.
    """
    similarity = np.zeros(count, np.float32)
    for done, members in enumerate(lists):
        similarity[members] = np.maximum(similarity[members], largest_before(read(members)))
        progress(done + 1, len(lists))
    return similarity


def threshold_of(similarity: np.ndarray, fraction: float) -> float:
    """Above which as many are dropped that this share stays, and more only of equals.

    Args:
        similarity: (N,) of `max_similarities`.
    """
    place = max(1, int(len(similarity) * fraction)) - 1
    return float(np.partition(similarity, place)[place])


def greedily_dropped(read: Read, lists: Sequence[np.ndarray], dropped: np.ndarray, limit: float) -> np.ndarray:
    """(N,) flags: of the pairs that the released rule drops, those that are like one that stays.

    In each round a pair that is like an earlier one that stays is dropped, and one that is like no earlier one that is
    still open stays. The first open pair of the order is settled in any case, so there are at most as many rounds as
    chains are long.

    Args:
        dropped: (N,) flags of the released rule.
        limit: the cosine above which two pairs are alike.
    """
    settled, open_ = np.zeros(len(dropped), bool), dropped.copy()
    while open_.any():
        by_kept, by_open = np.zeros(len(dropped), bool), np.zeros(len(dropped), bool)
        for members in lists:
            if open_[members].any():
                members = members[~settled[members]]
                rows, queries = read(members), np.flatnonzero(open_[members])
                asked = members[queries]
                by_kept[asked] |= largest_among(rows, queries, np.flatnonzero(~open_[members])) > limit
                by_open[asked] |= largest_among(rows, queries, queries) > limit
        settled |= open_ & by_kept
        open_ &= ~by_kept & by_open
    return settled


def missed_by_clusters(pairs: PairTable, features: str, clusters: Clusters, limit: float, seed: int = 0) -> str:
    """What share of near pairs has its two sides in different clusters, and how many of these the second nearest
    clusters have in common: exact search of a sample among all.

    Args:
        limit: the cosine above which two pairs are near.
    """
    sample = np.sort(np.argsort(_drawn(pairs, seed, "sem-dedup: borders"), kind="stable")[:SAMPLE])
    queries, own = unit_rows(pairs, features, sample), clusters.nearest[sample]
    near = divided = cured = 0
    for rows in pairs.blocks(ROWS_AT_ONCE):
        one, other = np.nonzero(queries @ unit_rows(pairs, features, rows).T > limit)
        others = np.flatnonzero(sample[one] != other + rows.start)  # but itself
        one, other = own[one[others]], clusters.nearest[rows][other[others]]  # (M, 2) clusters of both sides
        apart = one[:, 0] != other[:, 0]
        meet = (one[:, :, None] == other[:, None, :]).any(axis=(1, 2))
        near, divided, cured = near + len(one), divided + int(apart.sum()), cured + int((apart & meet).sum())
    if not near:
        return f"Borders: {len(sample):,} sampled pairs, compared with all, have no near pair."
    alone, cure = divided / near, (divided - cured) / near
    return (
        f"Borders: {len(sample):,} sampled pairs, compared with all, have {near:,} near pairs; clusters alone miss "
        f"{alone:.1%} of these, with borders {cure:.1%}."
    )


def _drawn(pairs: PairTable, seed: int, purpose: str) -> np.ndarray:
    return np.concatenate([pairs.uniform(seed, rows, purpose=purpose) for rows in pairs.blocks()])
