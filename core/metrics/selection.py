"""The score that hyper-parameters are chosen by on val: accuracy, or macro AUROC with several labels per image."""

from __future__ import annotations

import torch
from torch import Tensor


def val_score(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of (V, C) logits, or macro AUROC where labels are (V, C)."""
    if labels.ndim == 1:
        return float((logits.argmax(dim=-1) == labels).double().mean())
    return float(macro_auroc(logits.T[None], labels.T)[0])


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
