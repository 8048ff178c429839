"""Nearest neighbours by cosine without an (N, N) matrix, and sparse sums along them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**24  # of a (rows, N) block of cosines: 64 MiB
GROUP = 32  # keys whose best cosine is found first
PRINT_ROWS = 8192  # rows hashed at once


def nearest(rows: Tensor, keys: Tensor, count: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Cosines and indices of the `count` keys nearest to each row, the nearest first; all keys where there are fewer.

    Args:
        rows: (B, D) unit rows.
        keys: (N, D) unit rows.
        count: how many.
        skip_self: row i is key i, and is not a neighbour of itself.

    Returns:
        cosines (B, K) and indices (B, K).
    """
    count = max(0, min(count, len(keys) - int(skip_self)))
    if not count or not len(rows):
        return rows.new_zeros(len(rows), count), torch.zeros(len(rows), count, dtype=torch.long, device=rows.device)
    group = max(1, min(GROUP, len(keys) // (GROUP * count)))
    width = -(-len(keys) // group) * group
    step = max(1, min(len(rows), CHUNK_ELEMENTS // width))
    buffer = rows.new_full((step, width), -torch.inf)  # columns beyond the keys stay -inf
    parts = []
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        cosines = buffer[: len(block)]
        torch.mm(block, keys.T, out=cosines[:, : len(keys)])
        if skip_self:
            cosines[:, start : start + len(block)].fill_diagonal_(-torch.inf)
        parts.append(_largest(cosines, count, group))
    cosines, index = zip(*parts)
    return torch.cat(cosines), torch.cat(index)


def _largest(values: Tensor, count: int, group: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row: they lie in the `count` groups of columns with the largest maxima.

    Maxima of groups are one fast sweep; only 1 / `group` of the columns, and then a few groups, are ranked.
    """
    groups = values.shape[1] // group
    best = values.view(len(values), group, groups).amax(dim=1)  # (B, N / group)
    chosen = best.topk(count, dim=1).indices  # (B, K)
    members = torch.arange(group, device=values.device) * groups
    columns = (chosen[:, :, None] + members).flatten(1)  # (B, K * group)
    largest, place = values.gather(1, columns).topk(count, dim=1)
    return largest, columns.gather(1, place)


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
    cosines, index = nearest(rows, keys, count, skip_self=skip_self)
    return cosines.clamp_min(0) / max(1, 2 * index.shape[1]), index


def row_prints(features: Tensor) -> Tensor:
    """(N,) int64, the same number for rows of the same bits and hardly ever for others."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (features.shape[1],), generator=generator) * 2 + 1
    factors = factors.to(features.device)
    bits = features.contiguous().view(torch.int32)
    return torch.cat([(block.long() * factors).sum(dim=1) for block in bits.split(PRINT_ROWS)])
