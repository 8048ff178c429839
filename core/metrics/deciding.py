"""Which metric decides on a test set, and what each answer adds to it."""

from __future__ import annotations

import torch
from torch import Tensor

UNEQUAL = 1.5
"""Largest over smallest class of the test set above which balanced accuracy decides."""


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
