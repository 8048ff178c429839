"""Symmetric InfoNCE, what most contrastive losses are built of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(a: Tensor, b: Tensor, scale: Tensor | float, targets: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of picking the partner among all, from a to b and from b to a, halved.

    Args:
        a: (N, D).
        b: (M, D); M = N where the partners are the equal rows.
        scale: what the products are multiplied by, 1 / temperature.
        targets: (N, M) weights of the right answers, 0 or more, at least one above 0 in each row and column; each
            direction brings its own rows to a sum of 1. None: row i belongs to row i.
    """
    logits = scale * a @ b.T  # (N, M)
    if targets is None:
        own = torch.arange(len(a), device=a.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets.T)) / 2


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with `targets`, whose rows are brought to a sum of 1."""
    return F.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))
