"""Classes with unequal numbers of images: weights by which each of them counts alike.

The weight of a class with n of the N images is N / (C n), with C the classes that have images, as scikit-learn's
`class_weight="balanced"` has it. Where all have equally many there are no weights: what is published stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_SHOTS = 16
"""Shots per class that few-shot methods are published for, at most."""
OFFSET_RIDGE, OFFSET_STEPS = 1e-2, 100
"""Of `balancing_offsets`: the weight of squared offsets beside a mean cross-entropy, and the steps of L-BFGS."""


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
    counts = torch.bincount(labels, minlength=logits.shape[1]).cpu()
    seen = counts > 0
    offsets = torch.zeros(len(counts), dtype=torch.double)
    if seen.sum() < 2:
        return offsets.to(logits)
    known, places = logits.detach()[:, seen.to(logits.device)].double().cpu(), seen.cumsum(0)[labels.cpu()] - 1
    spread = float(known.std()) + 1e-12
    log_factor = torch.zeros((), dtype=torch.double, requires_grad=True)
    shifts = torch.zeros(known.shape[1], dtype=torch.double, requires_grad=True)
    weights = (len(labels) / (seen.sum() * counts[seen])).double()[places]  # (N,) of mean 1
    optimizer = torch.optim.LBFGS([log_factor, shifts], max_iter=OFFSET_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        each = torch.nn.functional.cross_entropy(log_factor.exp() * known / spread + shifts, places, reduction="none")
        value = (weights * each).mean() + OFFSET_RIDGE * (shifts.square().sum() + log_factor.square())
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    fitted = shifts.detach() * spread / log_factor.detach().exp()
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
