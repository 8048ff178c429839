"""Tokens of an axis joined in pairs: half of them look for the most similar token of the other half, and the most
similar pairs become their mean."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Merge:
    """Which of the n tokens of an axis join which, those at even places others at odd ones.

    Args:
        kept: (..., n / 2 - r, 1) even tokens that stay, in their order, each counted among the even ones.
        joined: (..., r, 1) even tokens that join another.
        into: (..., r, 1) which odd tokens these are, counted among the odd ones.
    """

    kept: Tensor
    joined: Tensor
    into: Tensor

    def __call__(self, x: Tensor, reduce: str = "sum") -> Tensor:
        """(..., n, C) -> (..., n - r, C): the even tokens that stay, then the odd ones with what joined them.

        Args:
            reduce: how a token is made of those that join, as of `Tensor.scatter_reduce`.
        """
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        wide = [index.expand(*index.shape[:-1], x.shape[-1]) for index in (self.kept, self.joined, self.into)]
        rest, moved = even.gather(-2, wide[0]), even.gather(-2, wide[1])
        return torch.cat([rest, odd.scatter_reduce(-2, wide[2], moved, reduce)], dim=-2)


@torch.no_grad()
def matching(
    metric: Tensor, count: int, *, first: bool = False, together: bool = False, spared: int = 1
) -> Merge | None:
    """The `count` most similar pairs, or as many as there can be; None where that is none.

    Args:
        metric: (B, G, n, C), what tokens are compared by: the cosine.
        count: r; at most (n - spared) // 2 are merged.
        first: the first token, a class token, joins no other.
        together: all G sets do the same, by their votes: each token joins the one that most of the G chose, and pairs
            are ordered by the most frequent of the G similarities, which is the smallest where all differ.
        spared: tokens that are not counted among those of which half can go.
    """
    count = min(count, (metric.shape[-2] - spared) // 2)
    if count <= 0:
        return None
    unit = F.normalize(metric, dim=-1)
    similar = unit[..., ::2, :] @ unit[..., 1::2, :].transpose(-1, -2)  # (B, G, even, odd)
    if first:
        similar[..., 0, :] = -torch.inf
    best, chosen = similar.max(dim=-1)
    if together:
        best, chosen = (each.mode(dim=-2, keepdim=True).values.expand_as(each) for each in (best, chosen))
    order = best.argsort(dim=-1, descending=True, stable=True)[..., None]
    joined = order[..., :count, :]
    return Merge(order[..., count:, :].sort(dim=-2).values, joined, chosen[..., None].gather(-2, joined))


def merged(merge: Merge | None, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Tokens (..., n, C) as means weighted by how many each is already, and how many they are then.

    Args:
        sizes: (..., n, 1), None where each token is one.
    """
    if merge is None:
        return x, sizes
    sizes = torch.ones_like(x[..., :1]) if sizes is None else sizes
    total = merge(sizes)
    return merge(x * sizes) / total, total


def schedule(count: int, inflection: float, blocks: int) -> list[int]:
    """How many tokens are merged in each block, `count` on average: alike in all at 0, from 2 `count` falling to 0 at
    -1, rising from 0 at 1; rounded down."""
    return [int(value) for value in _ramp(int(count * (1 - inflection)), count, blocks)]


def spread(mean: float, inflection: float, blocks: int) -> list[int]:
    """The same of a mean that is no whole number: rounded so that the sums up to each block are as near as can be."""
    gone = [round(value) for value in accumulate(_ramp(mean * (1 - inflection), mean, blocks), initial=0.0)]
    return [after - before for before, after in pairwise(gone)]


def _ramp(first: float, mean: float, blocks: int) -> list[float]:
    step = 2 * (mean - first) / max(1, blocks - 1)
    return [first + step * block for block in range(blocks)] if blocks > 1 else [mean]
