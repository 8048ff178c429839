"""Results clustered by how alike they are: pictures of one thing, or of one person, stand together.

Average linkage of cosine distances ("A Statistical Method for Evaluating Systematic Relationships", Sokal and Michener
1958), by SciPy, cut at the cosine from which pictures count as showing the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError
from .index import Hit


def clustered(hits: Sequence[Hit], vectors: np.ndarray, cosine: float) -> list[Hit]:
    """The results with a cluster's number each, from 1 by the cluster's best; clusters stand one after the other.

    Args:
        hits: the best first.
        vectors: (n, D) unit rows of them.
        cosine: mean cosine from which two groups of results are one.

    Raises:
        ConfigError: `cosine` is not above -1 and below 1.
    """
    check_cosine(cosine)
    if len(hits) < 2:
        return [replace(hit, cluster=1) for hit in hits]
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    distances = np.clip(pdist(vectors.astype(np.float64), "cosine"), 0, 2)
    labels = fcluster(linkage(distances, "average"), 1 - cosine, "distance")
    numbers: dict[int, int] = {}
    of_hits = [numbers.setdefault(int(label), len(numbers) + 1) for label in labels]
    numbered = [replace(hit, cluster=number) for hit, number in zip(hits, of_hits, strict=True)]
    return sorted(numbered, key=lambda hit: (hit.cluster, hit.rank))


def check_cosine(cosine: float) -> None:
    """Raise the ConfigError of a cosine that joins all or nothing."""
    if not -1 < cosine < 1:
        raise ConfigError(f"--cluster {cosine:g}: give a cosine above -1 and below 1, for instance 0.9")
