"""The score that settings are chosen by on val, and which of equally good settings is taken."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .class_balance import row_weights

ALIKE = 1e-9
"""Scores this close are alike."""


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
