"""Square-root resampling: classes are drawn as often as the root of their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import DataError
from ._kmeans import cluster, clusters_option, features_option


@dataclass(eq=False, kw_only=True)
class SquareRoot(Curator):
    """Exploring the Limits of Weakly Supervised Pretraining (Mahajan et al., 2018, arXiv 1805.00932), the resampling
    of its hashtags.

    A pair of a class of n pairs is kept with a probability in proportion to 1 / sqrt(n), at most 1, so that a class of
    100 times as many pairs is 10 times as frequent in what is kept. A class is an entry of a column, such as a label or
    a cluster; without one, classes are clusters of the features.

    Example:
        >>> build_curator("square-root", column="label", fraction=0.5).decide_all(pairs).keep.sum()
        500
    """

    stage: ClassVar[str] = "balance"

    column: str | None = option(None, "column of classes, of numbers or strings; none: clusters of the features")
    fraction: float = option(0.5, "share of the pairs to keep, on average of all draws", above=0.0, high=1.0)
    power: float = option(0.5, "of the size of a class: 1 makes classes equal, 0 leaves them", low=0.0, high=1.0)
    clusters: int | None = clusters_option()
    features: str = features_option()
    weights: bool = option(False, "keep all pairs, weighted with a mean of 1, in place of a draw")
    seed: int = option(0, "fixes the draw, and the clusters", low=0)

    def __post_init__(self):
        super().__post_init__()
        if self.weights:
            self.refuse_unused("with weights all pairs are kept", "fraction")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column or self.features,)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        if self.column is None:
            classes = cluster(pairs, self.features, self.clusters, self.seed, progress).nearest[:, 0]
        else:
            classes = _classes(pairs, self.column)
        _, classes, sizes = np.unique(classes, return_inverse=True, return_counts=True)
        if self.weights:
            share = sizes.astype(np.float64) ** -self.power
            share *= len(pairs) / (sizes @ share)
        else:
            share = keep_shares(sizes, self.fraction, self.power)
        note = (
            f"{len(sizes)} classes of {sizes.min()} to {sizes.max()} pairs, of which shares of {share.max():.3g} to "
            f"{share.min():.3g} are drawn"
        )
        return Survey({"pairs": sizes}, {"share": share[classes]}, (note,))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        share = survey.rows["share"]
        dropped = np.zeros(len(pairs), bool) if self.weights else pairs.uniform(self.seed, purpose=self.name) >= share
        weight = share.astype(np.float32) if self.weights else None
        return Decision.of({"its class is frequent": dropped}, weight, {"share": share.astype(np.float32)})


def keep_shares(sizes: np.ndarray, fraction: float, power: float = 0.5) -> np.ndarray:
    """(K,) shares min(1, r / n^power) of classes of n pairs, with the r for which `fraction` of all pairs is kept.

    Args:
        sizes: (K,), each at least 1.
    """
    root = sizes.astype(np.float64) ** power
    order = np.argsort(root, kind="stable")
    whole = np.cumsum(sizes[order]) - sizes[order]  # pairs of smaller classes, which are kept whole
    rest = np.cumsum((sizes / root)[order][::-1])[::-1]  # what is kept of this class and larger ones, at r = 1
    rates = (fraction * sizes.sum() - whole) / rest
    dropping = np.flatnonzero(rates <= root[order])  # the first is the smallest class of which not all are kept
    return np.minimum(1.0, rates[dropping[0]] / root) if len(dropping) else np.ones(len(sizes))


def _classes(pairs: PairTable, column: str) -> np.ndarray:
    """(N,) int64 numbers of the entries of a column, in the order in which they first occur."""
    numbers: dict[str | int | float | None, int] = {}
    classes = np.empty(len(pairs), np.int64)
    numeric = isinstance(pairs.columns[column], np.ndarray)
    for rows in pairs.blocks():
        entries = pairs.numbers(column, rows) if numeric else np.array(pairs.strings(column, rows), object)
        if entries.ndim != 1:
            raise DataError(f"column '{column}': these are features; give one class per pair, or omit column")
        kinds, inverse = np.unique(entries, return_inverse=True)
        named = (kind if kind == kind else None for kind in kinds.tolist())  # NaN is one class
        classes[rows] = np.array([numbers.setdefault(kind, len(numbers)) for kind in named])[inverse]
    return classes
