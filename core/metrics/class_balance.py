"""Classes with unequal numbers of images: weights by which each of them counts alike.

The weight of a class with n of the N images is N / (C n), with C the classes that have images, as scikit-learn's
`class_weight="balanced"` has it. Where all have equally many there are no weights: what is published stays as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..training.logistic import softmax_loss

MOST_SHOTS = 16
"""Shots per class that few-shot methods are published for, at most."""
OFFSET_RIDGE = 1e-2
OFFSET_SOLVER = {"maxiter": 200, "maxls": 50, "gtol": 1e-8, "ftol": 1e-14}
"""Of `balancing_offsets`: the weight of squared offsets beside a mean cross-entropy, and when L-BFGS ends."""


def class_weights(labels: Tensor, num_classes: int) -> Tensor | None:
    """(C,) weights, 0 for a class without images; None where all classes with images have equally many.

    Args:
        labels: (N,) class indices.
        num_classes: C.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    present = counts > 0
    if len(counts[present].unique()) < 2:
        return None
    weights = len(labels) / (present.sum() * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


def log_priors(labels: Tensor, num_classes: int) -> Tensor | None:
    """(C,) log shares of the classes; None where all classes with images have equally many, or labels are several.

    Added to the logits while a classifier trains, they are the logit adjustment of Menon et al. (Long-tail learning via
    logit adjustment, 2020, arXiv 2007.07314): what is learned minimises the balanced error. A class without images
    counts as one with the fewest.

    Args:
        labels: (N,) class indices, or (N, C).
        num_classes: C.
    """
    if labels.ndim != 1 or class_weights(labels, num_classes) is None:
        return None
    counts = torch.bincount(labels, minlength=num_classes)
    counts = counts.clamp(min=int(counts[counts > 0].min()))
    return (counts / counts.sum()).log()


def balancing_offsets(logits: Tensor, labels: Tensor) -> Tensor:
    """(C,) what is to be added to the logits of classes, so that those of images that were not learned from fit their
    labels, each class counting alike.

    What learns a class of few images fits these, and its logits on other images fall behind: more so the fewer it has.
    At one factor common to all logits, the offsets have the least balanced cross-entropy, held near 0 by a ridge. A
    class without such images gets the offset of the one that has the fewest.

    Args:
        logits: (N, C) of images that were not learned from.
        labels: (N,) class indices.
    """
    from scipy.optimize import minimize

    counts = torch.bincount(labels, minlength=logits.shape[1]).cpu()
    seen = counts > 0
    offsets = torch.zeros(len(counts), dtype=torch.double)
    if seen.sum() < 2:
        return offsets.to(logits)
    known, places = logits.detach()[:, seen.to(logits.device)].double().cpu(), seen.cumsum(0)[labels.cpu()] - 1
    spread = float(known.std()) + 1e-12
    weights = (1 / (seen.sum() * counts[seen])).double()[places]  # (N,) of sum 1
    scaled, loss = known.numpy() / spread, softmax_loss(places.numpy(), weights.numpy())

    def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
        factor = np.exp(at[0])
        value, slopes = loss(factor * scaled + at[1:])
        own = np.concatenate([[factor * np.vdot(slopes, scaled)], slopes.sum(axis=0)])
        return value + OFFSET_RIDGE * float(at @ at), own + 2 * OFFSET_RIDGE * at

    start = np.zeros(1 + known.shape[1])
    found = minimize(objective, start, method="L-BFGS-B", jac=True, options=OFFSET_SOLVER).x
    fitted = torch.from_numpy(found[1:] * spread / np.exp(found[0]))
    offsets[seen] = fitted
    offsets[~seen] = fitted[counts[seen].argmin()]
    return offsets.to(logits)


def row_weights(labels: Tensor) -> Tensor | None:
    """(N,) float64 weights of the images, of mean 1: the weighted share of right ones is the balanced accuracy.

    Args:
        labels: (N,) class indices, or (N, C) of several labels, which have none.
    """
    if labels.ndim != 1 or not len(labels):
        return None
    weights = class_weights(labels, int(labels.max()) + 1)
    return None if weights is None else weights.double()[labels]


def signed_shares(labels: Tensor, num_classes: int) -> Tensor:
    """(N, C): of each label 1/n for its n positives and -1/m for its m negatives, times the mean number of positives,
    16 at most.

    A weighted sum of images is then a mean of positives less a mean of negatives, of the size that a sum over a few
    shots has: it stays comparable with zero-shot however many images there are. Labels without one of the two are 0,
    and so is whatever is unknown.

    Args:
        labels: (N, L) of 0, 1 and NaN, with L up to C.
        num_classes: C.
    """
    positive, negative = (labels == 1).float(), (labels == 0).float()
    n, m = positive.sum(dim=0), negative.sum(dim=0)
    both = (n > 0) & (m > 0)
    shares = torch.where(both, positive / n.clamp(min=1) - negative / m.clamp(min=1), 0.0)
    mean_positives = (n.sum() / (n > 0).sum().clamp(min=1)).clamp(max=MOST_SHOTS)
    return torch.nn.functional.pad(shares * mean_positives, (0, num_classes - labels.shape[1]))
