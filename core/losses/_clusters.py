"""K-means that gives the same clusters on every process and in every run."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

FULL_UP_TO = 10**8  # rows times clusters; beyond it an iteration over all rows takes a minute of one core
MINI_BATCH = 4096
KINDS = ("auto", "full", "minibatch")


def k_means(
    features: Tensor, count: int, iterations: int, restarts: int, seed: int, kind: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The cluster (N,) of each row of features (N, D), and the centres (count, D).

    Lloyd's iterations from random rows, by scikit-learn on one thread, since sums of several threads come in any order.

    Args:
        features: (N, D) float32 on the CPU.
        count: number of clusters, up to N.
        iterations: at most so many.
        restarts: the best of so many is taken.
        seed: of the first centres.
        kind: "full" over all rows, "minibatch", or "auto", which is full where N * count is up to 1e8.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    full = kind == "full" or (kind == "auto" and len(features) * count <= FULL_UP_TO)
    common = {"init": "random", "n_init": restarts, "max_iter": iterations, "tol": 0.0, "random_state": seed}
    method = KMeans(count, **common) if full else MiniBatchKMeans(count, batch_size=MINI_BATCH, **common)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        method.fit(features.numpy())
    assignment = torch.from_numpy(method.labels_).long()
    return assignment, torch.from_numpy(method.cluster_centers_).to(features.dtype)


def cluster_means(features: Tensor, assignment: Tensor, count: int) -> Tensor:
    """Mean of the rows of features (N, D) in each cluster, (count, D); 0 where it is empty."""
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, assignment, features)
    return sums / torch.bincount(assignment, minlength=count).clamp(min=1)[:, None]
