"""Which of many images found for class names are kept to learn from: those whose words are most like their class."""

from __future__ import annotations

import torch
from torch import Tensor


def most_alike(similarity: Tensor, labels: Tensor, per_class: int | None) -> Tensor:
    """Rows to keep, class by class and the most alike first; of equal ones the earlier.

    Args:
        similarity: (N,) cosine of each image's words and its class's texts; rows below 0 are left out.
        labels: (N,) class indices.
        per_class: how many a class at most; None for all.

    Returns:
        (M,) int64.
    """
    order = similarity.argsort(descending=True, stable=True)
    order = order[similarity[order] >= 0]
    order = order[labels[order].argsort(stable=True)]  # class by class
    classes, counts = labels[order].unique_consecutive(return_counts=True)
    if per_class is None or not len(classes):
        return order
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return order[torch.arange(len(order), device=order.device) - starts < per_class]
