"""Which patches of an image a tower sees where the rest are left out: a function of the sample's own draws."""

from __future__ import annotations

import torch
from torch import Tensor


def draws_for(draws: Tensor, row: int, count: int) -> Tensor:
    """(B, 4, K) -> (B, count): one number each, used again where there are more than K."""
    return draws[:, row, torch.arange(count, device=draws.device) % draws.shape[2]]


def visible_places(draws: Tensor, patches: int, kept: float) -> Tensor:
    """(B, 4, K) draws -> (B, V) int64, ascending: the share of the patches of each image with the lowest draws."""
    count = max(1, round(kept * patches))
    return draws_for(draws, 0, patches).argsort(dim=1, stable=True)[:, :count].sort(dim=1).values


def tokens_at(x: Tensor, prefix: int, places: Tensor) -> Tensor:
    """(B, T, W) and (B, V) places among the patches -> (B, prefix + V, W): what stands before them, and these."""
    first = torch.arange(prefix, device=x.device).expand(len(x), -1)
    index = torch.cat([first, places + prefix], dim=1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
