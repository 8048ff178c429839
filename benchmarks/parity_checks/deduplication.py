"""Which pairs of image and text are dropped because others say the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import numpy as np

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import _kmeans, density, sem_dedup

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("sem-dedup", "semdedup")
def semdedup(ref: Reference, f: Fixtures) -> Iterator[Check]:
    features, centroids = ref["embedding"].numpy(), ref["centroids"].numpy()
    pairs = PairTable.of([f"{number:09d}" for number in range(len(features))], image_features=features)
    clusters = _kmeans.assign(pairs, "image_features", centroids)
    nearest = clusters.nearest[:, :1]
    yield ref.check(nearest, "nearest")
    yield ref.check(clusters.similarity, "similarity_to_centroid")
    similarity, lists = ref["similarity_to_centroid"].numpy(), {}  # to all its digits
    for key, kind, which in ref.keys(r"order\.(spherical|cosine)_(\w+)"):
        lists[which] = sem_dedup.members_in_order(nearest, sem_dedup.visiting_order(similarity, which))
        yield ref.check(np.concatenate(lists[which]), key)
        if kind == "spherical":
            distance = 1 - similarity[np.concatenate(lists[which])]
            told = f"{key}.distance"
            yield from [ref.check(distance, told)] if told in ref else []
    lists["random"] = _shuffled(lists["hard"], int(ref.setting("seed")))
    largest = {
        which: sem_dedup.max_similarities(features.__getitem__, each, len(features)) for which, each in lists.items()
    }
    yield ref.check(largest["hard"], "max_similarity")
    for key, which, eps in ref.keys(r"keep\.(\w+)\.eps(.+)"):
        yield ref.check(largest[which] <= 1 - float(eps), key)


@compares("density", "density_pruning")
def density_pruning(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for _, case in ref.keys(r"(.+)\.size"):
        centroids, sizes = ref[f"{case}.centroid"].numpy(), ref[f"{case}.size"].numpy()
        keep, balance, temperature = ref[f"{case}.settings"].double().tolist()
        most = int(re.match(r"min\((\d+)", ref.setting("neighbours"))[1])
        inter = density.centroid_distances(centroids, most)
        yield ref.check(inter, f"{case}.d_inter")
        share = density.cluster_shares(inter * ref[f"{case}.d_intra"].numpy(), temperature)
        yield ref.check(share, f"{case}.probability")
        total = int(ref[f"{case}.target"])
        yield ref.check(int(round(keep, 6) * sizes.sum()), f"{case}.target")
        counts, told = density.counts_to_keep(share, sizes, total, balance), f"{case}.keep"
        yield ref.check(counts, told, atol=ref.told[told].get("atol"))  # released: rounded, so that the sum may be off


def _shuffled(lists: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Each cluster of more than one in the order that Python's generator gives it, one after the other."""
    draw, shuffled = random.Random(seed), []
    for members in lists:
        order = list(members)
        if len(order) > 1:
            draw.shuffle(order)
        shuffled.append(np.array(order))
    return shuffled


GROUPS = (semdedup, density_pruning)
DEVIATIONS = {
    "sem-dedup": "members of a cluster are visited by cosines of 6 digits, so that of equal rows the one of the "
    "smaller id is kept; the released code sorts by all digits"
}
