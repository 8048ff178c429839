"""Spherical k-means of the pairs' features, by faiss: what curators that compare only neighbours begin with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, PairTable, Progress
from ..contracts.options import option
from ..errors import DataError

ITERATIONS = 20
ROWS_PER_CENTROID, FEWEST_PER_CENTROID, SAMPLE = 256, 39, 1_000_000
"""Of the pairs, drawn by their ids, from which centroids are learned; faiss warns below 39 of each."""
ROWS_AT_ONCE, DIGITS = 16_384, 6
PRODUCTS_AT_ONCE = 2**24
FEATURES = (IMAGE_FEATURES, CAPTION_FEATURES)


def features_option() -> str:
    """The option of which features pairs are clustered and compared by."""
    return option(IMAGE_FEATURES, "column of features by which pairs are compared", choices=FEATURES)


def clusters_option() -> int | None:
    """The option of how many clusters there are."""
    return option(None, "number of clusters of k-means; by default half the square root of the number of pairs", low=1)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Of N pairs in K clusters.

    Args:
        centroids: (K, D) float32 unit rows.
        nearest: (N, 2) int32, the nearest and the second nearest centroid; (N, 1) where there is one.
        similarity: (N,) float32 cosine to the nearest, to six digits, so that equal rows are equally near wherever they
            stand in a block.
    """

    centroids: np.ndarray
    nearest: np.ndarray
    similarity: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(K,) pairs in each cluster."""
        return np.bincount(self.nearest[:, 0], minlength=len(self.centroids))


def number_of_clusters(pairs: int, clusters: int | None = None) -> int:
    """As many as are asked for, at most one per pair; by default half the square root of the number of pairs.

    Clustering and comparing within clusters then cost about the same, N^1.5 products each, and a cluster has
    2 sqrt(N) members: 2,000 of a million pairs, and 40,000 of the 440 million for which the authors of SemDeDup took
    50,000 clusters, 8,800 members each.
    """
    return max(1, min(pairs, clusters or round(math.sqrt(pairs) / 2)))


def cluster(
    pairs: PairTable,
    features: str,
    clusters: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Clusters:
    """Spherical k-means: centroids are unit rows, and a pair belongs to the one of largest cosine.

    Centroids are learned from at most 256 pairs per cluster, drawn by the hash of their ids and the seed: a million in
    all, or 39 per cluster where that is more. Pairs are assigned some at a time. Held in memory are that sample, at
    most 128 sqrt(N) rows by default, and 12 bytes per pair.

    Args:
        features: name of the column.
        clusters: how many; None for half the square root of the number of pairs.

    Raises:
        DataError: features that are not finite. CapabilityError: faiss is not installed.
    """
    from ..data import faiss_library

    count, faiss = number_of_clusters(len(pairs), clusters), faiss_library()
    drawn = np.concatenate([pairs.uniform(seed, rows, purpose="k-means: sample") for rows in pairs.blocks()])
    sample = unit_rows(pairs, features, np.sort(np.argsort(drawn, kind="stable")[: sample_size(count)]))
    means = faiss.Kmeans(
        sample.shape[1],
        count,
        niter=ITERATIONS,
        seed=seed % 2**31,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=ROWS_PER_CENTROID,
    )
    means.train(sample)
    return assign(pairs, features, np.asarray(means.centroids), progress)


def sample_size(clusters: int) -> int:
    """From how many pairs so many centroids are learned, where there are as many."""
    return max(FEWEST_PER_CENTROID * clusters, min(ROWS_PER_CENTROID * clusters, SAMPLE))


def assign(
    pairs: PairTable, features: str, centroids: np.ndarray, progress: Progress = lambda done, total: None
) -> Clusters:
    """The clusters of given centroids.

    Args:
        centroids: (K, D) unit rows.
    """
    search = centroid_search(centroids)
    nearest, similarity = [], np.empty(len(pairs), np.float32)
    for rows in pairs.blocks(ROWS_AT_ONCE):
        cosines, index = search(unit_rows(pairs, features, rows))
        nearest.append(index)
        similarity[rows] = np.round(cosines, DIGITS)
        progress(rows.stop, len(pairs))
    return Clusters(centroids, np.concatenate(nearest), similarity)


def centroid_search(centroids: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Rows (M, D) -> (M,) the largest inner product of each with a centroid (K, D), and (M, 2) int32 which that is, and
    the second; (M, 1) where all centroids are equal.

    Of equally near ones it is the first. Equal centroids count as the first of them: in a matrix product their columns
    may be rounded differently.
    """
    import torch

    first = np.sort(np.unique(centroids, axis=0, return_index=True)[1])
    keys, width = torch.from_numpy(centroids[first]), min(2, len(first))
    step = max(1, PRODUCTS_AT_ONCE // len(first))

    def search(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        largest, index = torch.empty(len(rows)), torch.empty(len(rows), width, dtype=torch.long)
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            products = torch.from_numpy(rows[some]) @ keys.T
            largest[some], index[some, 0] = products.max(dim=1)  # of equal ones the first
            if width == 2:
                index[some, 1] = products.scatter_(1, index[some, :1], -torch.inf).argmax(dim=1)
        return largest.numpy(), first[index.numpy()].astype(np.int32)

    return search


def unit_rows(pairs: PairTable, features: str, rows: np.ndarray | slice) -> np.ndarray:
    """(M, D) float32 unit rows of features.

    Raises:
        DataError: some are not finite.
    """
    return finite(pairs.unit(features, rows), features)


def finite(rows: np.ndarray, column: str) -> np.ndarray:
    """The rows as they are.

    Raises:
        DataError: some are not finite.
    """
    if broken := len(rows) - int(np.isfinite(rows).reshape(len(rows), -1).all(axis=1).sum()):
        raise DataError(f"{column}: {broken} rows are not finite; embed these pairs again, or leave them out")
    return rows
