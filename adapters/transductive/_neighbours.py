"""Links of rows with their nearest neighbours, and sparse sums along them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.data import nearest_rows

PRINT_ROWS = 8192  # rows hashed at once


@dataclass(frozen=True)
class Links:
    """A sparse (N, M) matrix of L weights, kept row by row.

    Args:
        columns: (L,) index of each weight's column.
        starts: (N,) where each row begins in `columns`.
        weights: (L,).
    """

    columns: Tensor
    starts: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, weights: Tensor, count: int) -> Links:
        """The matrix of `count` rows with weights[l] added at (rows[l], columns[l])."""
        order = torch.argsort(rows, stable=True)
        sizes = torch.bincount(rows, minlength=count)
        return cls(columns[order], sizes.cumsum(0) - sizes, weights[order])

    def spread(self, values: Tensor) -> Tensor:
        """(N, C): the matrix times `values` (M, C)."""
        return F.embedding_bag(self.columns, values, self.starts, mode="sum", per_sample_weights=self.weights)


def mutual_links(features: Tensor, count: int) -> Links:
    """(Q, Q) links of each row with its `count` nearest others, and with those whose nearest it is.

    The weight is the cosine, not below 0, over twice the number of neighbours, so that a row of it sums to about 1.
    """
    weights, index = _weighted(features, features, count, skip_self=True)
    self_index = torch.arange(len(features), device=features.device)[:, None].expand_as(index)
    rows, columns = torch.cat([self_index, index]).flatten(), torch.cat([index, self_index]).flatten()
    return Links.of(rows, columns, torch.cat([weights, weights]).flatten(), len(features))


def support_links(support: Tensor, features: Tensor, count: int) -> Links:
    """(Q, S) links of each row of `features` with the support rows that have it among their `count` nearest."""
    weights, index = _weighted(support, features, count)
    self_index = torch.arange(len(support), device=features.device)[:, None].expand_as(index)
    return Links.of(index.flatten(), self_index.flatten(), weights.flatten(), len(features))


def _weighted(rows: Tensor, keys: Tensor, count: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Weights (B, K) and indices (B, K) of neighbours."""
    cosines, index = nearest_rows(rows, keys, count, skip_self=skip_self)
    return cosines.clamp_min(0) / max(1, 2 * index.shape[1]), index


def row_prints(features: Tensor) -> Tensor:
    """(N,) int64, the same number for rows of the same bits and hardly ever for others."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (features.shape[1],), generator=generator) * 2 + 1
    factors = factors.to(features.device)
    bits = features.contiguous().view(torch.int32)
    return torch.cat([(block.long() * factors).sum(dim=1) for block in bits.split(PRINT_ROWS)])
