"""DataComp's image-based filter: images in clusters where a target task has some."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..contracts.recipe import check_features_place
from ..errors import DataError
from ._kmeans import assign, centroid_search, cluster, clusters_option
from ._targets import read_target
from .caption import Caption


@dataclass(eq=False, kw_only=True)
class ImageBased(Caption):
    """DataComp: In search of the next generation of multimodal datasets (2023, arXiv 2304.14108), image-based
    filtering: the images of the pool are clustered; a pair is kept when its nearest centroid, by inner product, is also
    the nearest centroid of a target image, such as ImageNet's for training, and it passes the filter `caption`.

    Its authors took 100,000 centroids of Euclidean k-means, which `centroids` reads. Those made here are of spherical
    k-means, of length 1 like the features.

    Example:
        >>> build_curator("image-based", target="imagenet-train.safetensors").decide_all(pairs).keep.sum()
        233
    """

    target: str = option(help="file or folder of image features of the target task")
    centroids: str = option("", "file of centroids (K, D), .npy; else the pool's images are clustered")
    clusters: int | None = clusters_option()
    seed: int = option(0, "of the clustering", low=0)

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, IMAGE_FEATURES)

    def check(self, columns: Collection[str]) -> None:
        super().check(columns)
        for place in filter(None, (self.target, self.centroids)):
            check_features_place(place)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        self.check(pairs.columns)
        target = read_target(self.target, pairs)
        if self.centroids:
            made = assign(pairs, IMAGE_FEATURES, read_centroids(self.centroids, target.features.shape[1]), progress)
        else:
            made = cluster(pairs, IMAGE_FEATURES, self.clusters, self.seed, progress)
        targets = np.unique(nearest_centroid(target.features, made.centroids))
        count = len(made.centroids)
        notes = (f"target images are in {len(targets)} of {count} clusters of the pool", *target.overlap(pairs))
        return Survey({"target_clusters": targets}, {"cluster": made.nearest[:, 0]}, notes)

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        elsewhere = ~np.isin(survey.rows["cluster"], survey.whole["target_clusters"])
        return Decision.of({**self.rules(pairs), "in no cluster of a target image": elsewhere})


def nearest_centroid(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(M,) index of the centroid (K, D) with the largest inner product with each row (M, D)."""
    return centroid_search(centroids)(rows)[1][:, 0]


def read_centroids(place: str, width: int) -> np.ndarray:
    """(K, D) float32 centroids of a file, of whatever length.

    Raises:
        DataError: it cannot be read, or D is not the width of the features.
    """
    from ..features.files import load_rows

    centroids = load_rows(place, IMAGE_FEATURES)[0]
    if centroids.shape[1] != width:
        raise DataError(
            f"{place}: centroids of {centroids.shape[1]} numbers, features have {width}; cluster them again"
        )
    return centroids
