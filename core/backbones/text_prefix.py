"""Learned vectors between the start token and the words of every text (prefix conditioning, 2022, arXiv 2206.01125)."""

from __future__ import annotations

import torch
from torch import Tensor


def insert_after_start(
    embeddings: Tensor, mask: Tensor, prefix: Tensor, longest: int, lead: int = 1
) -> tuple[Tensor, Tensor]:
    """Prefix vectors between the start token and the words; where that is too long, the last words go, not the end.

    Args:
        embeddings: (B, L, T).
        mask: (B, L) bool, tokens up to the end token.
        prefix: (B, n, T).
        longest: tokens the tower takes at most.
        lead: tokens that stand before the words; 0 for a tower without a start token.

    Returns:
        (B, min(L + n, longest), T) and its mask.
    """
    mask = mask.to(embeddings.device)
    n, words = prefix.shape[1], mask.sum(dim=1)  # (B,)
    length = min(embeddings.shape[1] + n, longest)
    kept = (words + n).clamp(max=length)
    taken = torch.arange(lead, length - n, device=embeddings.device).expand(len(embeddings), -1)
    taken = torch.where(taken == kept[:, None] - n - 1, words[:, None] - 1, taken)  # the end token stays the last
    rest = embeddings.gather(1, taken[:, :, None].expand(-1, -1, embeddings.shape[2]))
    whole = torch.cat([embeddings[:, :lead], prefix, rest], dim=1)
    return whole, torch.arange(length, device=mask.device) < kept[:, None]
