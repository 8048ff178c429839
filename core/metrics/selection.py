"""Which score decides: between settings on val, and of a test set; and how classes of unequal size count in it.

The weight of a class with n of the N images is N / (C n), with C the classes that have images, as scikit-learn's
`class_weight="balanced"` has it. Where all have equally many there are no weights: what is published stays as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALIKE = 1e-9
"""Scores this close are alike."""
UNEQUAL = 1.5
"""Largest over smallest class of the test set above which balanced accuracy decides."""
OFFSET_RIDGE, OFFSET_STEPS = 1e-2, 100
"""Of `balancing_offsets`: the weight of squared offsets beside a mean cross-entropy, and the steps of L-BFGS."""


def val_score(logits: Tensor, labels: Tensor, balanced: bool = False) -> float:
    """Accuracy of (V, C) logits, or macro AUROC where labels are (V, C).

    Args:
        balanced: take the balanced accuracy, the same where classes have equally many images.
    """
    if labels.ndim == 1:
        right = (logits.argmax(dim=-1) == labels).double()
        weights = row_weights(labels) if balanced else None
        return float((right if weights is None else right * weights).mean())
    return float(macro_auroc(logits.T[None], labels.T)[0])


def best_setting(scores: np.ndarray, ties: str = "published") -> tuple[int, ...]:
    """The place of the best score in a grid of any number of axes.

    Args:
        scores: one number per point of the grid.
        ties: of points that score alike "published" takes the first, "plateau" the one that is farthest from all
            worse points and from the ends of the grid, each axis having the length 1.
    """
    best = scores >= scores.max() - ALIKE
    if ties == "published" or best.sum() < 2:
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(scores)), scores.shape))
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(best, 1), sampling=[1 / size for size in scores.shape])
    depth = depth[tuple(slice(1, -1) for _ in scores.shape)]
    deepest = np.where(depth >= depth.max() - ALIKE, 1.0, 0.0)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(deepest)), scores.shape))


def macro_auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over labels of the area under the ROC curve, ties counted half.

    Args:
        scores: (A, C, V).
        labels: (C, V) of 0 and 1, NaN for unknown; labels without both are left out.

    Returns:
        (A,) float64.
    """
    scored = (labels == 1).any(dim=1) & (labels == 0).any(dim=1)
    labels, scores = labels[scored], scores[:, scored]
    scores = torch.where(torch.isnan(labels), torch.inf, scores)  # above all known ones: changes no rank of theirs
    ordered = scores.sort(dim=-1).values
    below = torch.searchsorted(ordered, scores)
    upto = torch.searchsorted(ordered, scores, right=True)
    rank = (below + upto + 1).double() / 2
    positive, negative = (labels == 1), (labels == 0)
    p, n = positive.sum(dim=1).double(), negative.sum(dim=1).double()
    wins = (rank * positive).sum(dim=-1) - p * (p + 1) / 2  # (A, C)
    return (wins / (p * n)).mean(dim=-1)


def deciding_metric(labels: Tensor) -> str:
    """Accuracy, or balanced accuracy where the classes of the test set are unequal, or macro AUROC.

    Args:
        labels: (N,) class indices, or (N, C) 0, 1 or NaN.
    """
    if labels.ndim == 2:
        return "auroc"
    fewest, most = class_range(labels)
    return "balanced_accuracy" if most > UNEQUAL * fewest else "accuracy"


def class_range(labels: Tensor) -> tuple[int, int]:
    """The fewest and the most images of a class that has any.

    Args:
        labels: (N,) class indices.
    """
    counts = torch.bincount(labels.long().cpu())
    counts = counts[counts > 0]
    return int(counts.min()), int(counts.max())


def weights_of_answers(labels: Tensor, deciding: str) -> Tensor:
    """(N,) what a right answer adds to the metric, accuracy or balanced accuracy."""
    if deciding == "accuracy":
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    counts = torch.bincount(labels).double()
    return 1 / (counts[labels] * (counts > 0).sum())


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
