"""Means and shared precisions of classes as Gaussians, in float64; no matrix is larger than rows x D or D x D."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**23  # of a block of rows in float64: 64 MiB
NO_SCATTER = 1e-12  # mean squared distance to the class mean, of unit rows; below it is rounding


def class_means(rows: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Means of classes, and how many rows each has; a class without rows has mean 0.

    Args:
        rows: (n, D).
        labels: (n,).

    Returns:
        (C, D) float64, (C,) int64.
    """
    sums = rows.new_zeros(num_classes, rows.shape[1], dtype=torch.double)
    for part, index in _blocks(rows, labels):
        sums.index_add_(0, index, part)
    counts = torch.bincount(labels, minlength=num_classes)
    return sums / counts.clamp_min(1)[:, None], counts


def shrunk_precision(rows: Tensor, labels: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """D ((n - 1) S + tr(S) I)^-1 with S the unbiased covariance of rows around their class means; 0 where S is.

    Args:
        rows: (n, D).
        labels: (n,).
        means: (C, D) float64.
        counts: (C,).

    Returns:
        (D, D) float64.
    """
    if len(rows) < rows.shape[1]:
        return _precision_of_few(rows.double() - means[labels])
    scatter = _scatter(rows, labels, means, torch.ones_like(counts, dtype=torch.double))
    trace = scatter.trace()
    if trace <= NO_SCATTER * len(rows):
        return torch.zeros_like(scatter)
    scatter.diagonal().add_(trace / (len(rows) - 1))
    return rows.shape[1] * torch.cholesky_inverse(torch.linalg.cholesky(scatter))


def _precision_of_few(centered: Tensor) -> Tensor:
    """The same of n < D rows less their class means, (n, D): by Woodbury's identity, through an n x n system."""
    (count, width), trace = centered.shape, centered.square().sum()
    if trace <= NO_SCATTER * count:
        return centered.new_zeros(width, width)
    ridge = trace / (count - 1)
    inner = centered @ centered.T  # (n, n)
    inner.diagonal().add_(ridge)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), centered, upper=False)  # (n, D)
    precision = half.T @ half * (-width / ridge)
    precision.diagonal().add_(width / ridge)
    return precision


def mean_class_precision(rows: Tensor, labels: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """Pseudo-inverse of the mean over classes of their unbiased covariances; classes of fewer than 2 rows have none.

    Args and result as in `shrunk_precision`.
    """
    several = counts > 1
    weights = several / (counts - 1).clamp_min(1) / several.sum().clamp_min(1)  # (C,)
    covariance = _scatter(rows, labels, means, weights.double())
    if covariance.trace() <= NO_SCATTER:
        return torch.zeros_like(covariance)
    cutoff = len(covariance) * torch.finfo(torch.float32).eps  # published in float32: what is rounding there is 0
    return torch.linalg.pinv(covariance, rtol=cutoff, hermitian=True)


def mean_excess(rows: Tensor, labels: Tensor, means: Tensor, images: Tensor, precision: Tensor) -> Tensor:
    """By how much mu_c P mu_c is larger than expected of the true mean, less the mean of this over classes.

    A mean of n_c images misses the true one by a covariance S / n_c, which adds trace(P S) / n_c: a class of few
    images would seem far from everything (Moran and Murphy, A Closer Look at Two Alternative Methods of Statistical
    Discrimination, 1979). Where classes have equally many it is the same for all, and shifts nothing.

    Args:
        rows, labels, means: as in `shrunk_precision`.
        images: (C,) how many images the rows of a class are of.
        precision: (D, D) P.

    Returns:
        (C,) float64; 0 for a class without images.
    """
    present = images > 0
    scatter = _scatter(rows, labels, means, torch.ones_like(means[:, 0]))
    spread = (scatter * precision).sum() / max(1, len(rows) - int(present.sum()))  # trace(P S)
    excess = spread / images.clamp_min(1).double()
    return torch.where(present, excess - excess[present].mean(), 0.0)


def new_class_gaussians(text: Tensor, rows: Tensor, neighbors: int, text_copies: int) -> tuple[Tensor, Tensor]:
    """Gaussians of classes of which there is only text, after Wang et al., 2024.

    Args:
        text: (C, D) unit rows.
        rows: (n, D) unit rows, of whatever class.
        neighbors: k, how many rows nearest to a text stand for its class; all of them where there are fewer.
        text_copies: how often the text counts beside them in the mean.

    Returns:
        (C, D) means and the shared (D, D) precision, float64: the mean of D ((k - 1) S_c + tr(S_c) I)^-1, with S_c the
        covariance around the text.
    """
    k, (size, width) = min(neighbors, len(rows)), text.shape
    means, precision = [], text.new_zeros(width, width, dtype=torch.double)
    for part in text.split(max(1, CHUNK_ELEMENTS // max(len(rows), k * width))):
        nearest = rows[(part @ rows.T).topk(k).indices].double()  # (c, k, D)
        center = part.double()[:, None]
        means.append((nearest.sum(dim=1) + text_copies * center[:, 0]) / (k + text_copies))
        offsets = nearest - center
        trace = offsets.square().sum(dim=(1, 2)) / max(k - 1, 1)  # (c,) of S_c
        inverse = torch.where(trace > NO_SCATTER, 1 / trace, 0)  # no scatter, no say
        inner = offsets @ offsets.mT  # (c, k, k): with it the D x D inverse costs k x k (Woodbury)
        inner.diagonal(dim1=1, dim2=2).add_(trace.clamp_min(NO_SCATTER)[:, None])
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), offsets, upper=False)  # (c, k, D)
        half = (half * inverse.sqrt()[:, None, None]).flatten(0, 1)
        precision -= half.T @ half
        precision.diagonal().add_(inverse.sum())
    return torch.cat(means), precision * (width / size)


def _scatter(rows: Tensor, labels: Tensor, means: Tensor, weights: Tensor) -> Tensor:
    """(D, D) sum over rows of (x - mu_c) (x - mu_c)^T, each times the weight of its class."""
    total = means.new_zeros(rows.shape[1], rows.shape[1])
    for part, index in _blocks(rows, labels):
        centered = (part - means[index]) * weights[index].sqrt()[:, None]
        total.addmm_(centered.T, centered)
    return total


def _blocks(rows: Tensor, labels: Tensor):
    """(rows in float64, their labels), a block at a time."""
    size = max(1, CHUNK_ELEMENTS // rows.shape[1])
    for part, index in zip(rows.split(size), labels.split(size)):
        yield part.double(), index
