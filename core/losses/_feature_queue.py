"""The newest features of a training, in a ring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """First in, first out; random unit rows until real ones have come.

    Args:
        size: rows it holds.
        width: of a row.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width), dim=-1))  # (size, D)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def nearest(self, features: Tensor, count: int = 1) -> Tensor:
        """(B, D) -> (B, count, D): the rows of highest cosine, the highest first, unit."""
        rows = F.normalize(self.rows.to(features.dtype), dim=-1)
        return rows[(F.normalize(features, dim=-1) @ rows.T).topk(count, dim=1).indices]

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Put (N, D) in place of the oldest rows, in their order."""
        size = len(self.rows)
        self.pointer += max(0, len(features) - size)  # rows that later ones would overwrite at once
        newest = features.detach()[-size:].to(self.rows)
        places = (self.pointer + torch.arange(len(newest), device=self.rows.device)) % size
        self.rows[places] = newest
        self.pointer.copy_((self.pointer + len(newest)) % size)
