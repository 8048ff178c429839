"""Groups of alike images, before and after, for a page: spherical k-means on a sample of the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, PairTable
from ..data.nearest import faiss_library
from .samples import StoredSample
from .table import HAS

SAMPLED, CLUSTERS, ROUNDS = 20_000, 8, 20


@dataclass(frozen=True)
class Cluster:
    """A group.

    Args:
        number: from 1, the largest first.
        before, after: pairs of the sample that are in it, and that are kept.
        examples: of it.
    """

    number: int
    before: int
    after: int
    examples: tuple[StoredSample, ...]


def clusters(table: PairTable, kept: np.ndarray, shown: Sequence[StoredSample]) -> list[Cluster]:
    """Clusters of the images that have features; none where there are too few.

    Args:
        kept: (M,) positions.
        shown: pairs that can be shown.
    """
    there = np.flatnonzero(table.numbers(f"{HAS}{IMAGE_FEATURES}"))
    if len(there) < 4 * CLUSTERS:
        return []
    sampled = there[np.linspace(0, len(there) - 1, min(SAMPLED, len(there))).astype(np.int64)]
    rows = table.unit(IMAGE_FEATURES, sampled)
    means = faiss_library().Kmeans(
        rows.shape[1], CLUSTERS, niter=ROUNDS, spherical=True, seed=0, min_points_per_centroid=1
    )
    means.train(rows)
    nearest = (rows @ means.centroids.T).argmax(axis=1)
    stays = np.isin(sampled, kept)
    before = np.bincount(nearest, minlength=CLUSTERS)
    after = np.bincount(nearest[stays], minlength=CLUSTERS)
    examples: dict[int, list[StoredSample]] = {}
    if shown:
        places = np.array([each.place for each in shown])
        cells = (table.unit(IMAGE_FEATURES, places) @ means.centroids.T).argmax(axis=1)
        for cell, sample in zip(cells.tolist(), shown):
            examples.setdefault(cell, []).append(sample)
    order = np.argsort(-before, kind="stable")
    return [
        Cluster(number, int(before[cell]), int(after[cell]), tuple(examples.get(int(cell), ())))
        for number, cell in enumerate(order.tolist(), 1)
        if before[cell]
    ]
