"""The max-margin ranking loss of text-video retrieval, on a matrix of similarities."""

from __future__ import annotations

import torch
from torch import Tensor


def max_margin(similarities: Tensor, margin: Tensor | float, diagonal: bool = False) -> Tensor:
    """How far others come nearer to a pair than a margin: the mean over others of its row, and of its column.

    Args:
        similarities: (B, B), pairs on the diagonal.
        margin: one for all pairs, or (B,) one for each.
        diagonal: whether the pairs, each too near to itself by the margin, stay in the mean.
    """
    own = similarities.diagonal()
    margins = torch.as_tensor(margin, dtype=own.dtype, device=own.device).expand_as(own)
    nearer = torch.stack([similarities, similarities.T]) - (own - margins)[:, None]  # (2, B, B)
    violations = nearer.clamp(min=0)
    if diagonal:
        return violations.mean()
    count = len(own)
    others = ~torch.eye(count, dtype=torch.bool, device=own.device)
    return (violations * others).sum() / max(1, 2 * count * (count - 1))
