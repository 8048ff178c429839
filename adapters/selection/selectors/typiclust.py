"""TypiClust: of each cluster the image in the thick of it, for the first labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ....core.contracts.options import option
from ....core.contracts.selector import Pool, Selector

FEW_CLUSTERS, BATCH = 50, 5000
"""Up to so many clusters plain k-means makes them, more of them k-means on batches of so many images."""
STARTS, STARTS_OF_BATCHES = 10, 3
CLOSENESS = 1e-5


@dataclass(eq=False, kw_only=True)
class Typiclust(Selector):
    """Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets (Hacohen, Dekel and Weinshall, 2022,
    arXiv 2202.02794), TPC_RP: k-means of the features into as many clusters as there will be labels.

    Clusters take turns, those with the fewest labelled images first, of these the largest. A turn takes the image with
    the highest typicality among the cluster's unlabelled ones, the inverse of the mean distance to its `neighbours`
    nearest of them. Clusters of `smallest` images or fewer are passed over; where that leaves none they all count.

    The released code averages squared distances; here they are those of the paper.

    Example:
        >>> build_selector("typiclust").select(pool, 3, seed=1)
        [4, 8, 0]
    """

    by_predictions: ClassVar[bool] = False

    most: int = option(500, "clusters, at most", low=1, high=100_000)
    smallest: int = option(5, "clusters of so many images or fewer are passed over", low=0, high=1_000_000)
    neighbours: int = option(
        20, "nearest images that typicality is of; at most half of a cluster", low=1, high=10**6
    )

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        candidates, labelled = pool.candidates.cpu(), pool.labelled.cpu()
        rows = torch.cat([labelled, candidates])
        features = pool.features[rows.to(pool.features.device)].float().cpu()
        clusters = clustered(features.numpy(), min(len(labelled) + count, self.most), seed)
        free = np.arange(len(rows)) >= len(labelled)
        chosen: list[int] = []
        while len(chosen) < count:
            for cluster in self._turns(clusters, len(labelled), free):
                members = np.flatnonzero((clusters == cluster) & free)
                if len(chosen) < count and len(members):
                    place = members[int(self.typicality(features[members]).argmax())]
                    free[place] = False
                    chosen.append(int(place))
        return rows[chosen].tolist()

    def _turns(self, clusters: np.ndarray, labelled: int, free: np.ndarray) -> list[int]:
        """Clusters in the order of their turns; all of them where the large ones are used up."""
        sizes = np.bincount(clusters)
        known = np.bincount(clusters[:labelled], minlength=len(sizes))
        order = np.lexsort((-sizes, known))
        large = [cluster for cluster in order if sizes[cluster] > self.smallest]
        return large if np.isin(clusters[free], large).any() else order.tolist()

    def typicality(self, features: Tensor) -> Tensor:
        """(n,) of the rows (n, D) of a cluster."""
        near = min(self.neighbours, len(features) // 2)
        if not near:
            return torch.ones(len(features))
        distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        return 1 / (distances.fill_diagonal_(torch.inf).topk(near, largest=False).values.mean(dim=1) + CLOSENESS)


def clustered(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(N,) cluster of each row of (N, D)."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    count = min(count, len(np.unique(features, axis=0)))
    if count <= FEW_CLUSTERS:
        return KMeans(count, n_init=STARTS, random_state=seed).fit_predict(features)
    return MiniBatchKMeans(count, n_init=STARTS_OF_BATCHES, batch_size=BATCH, random_state=seed).fit_predict(features)
