"""How well composed queries find their targets: several targets each, counted while the gallery goes by in blocks.

All follow from the ranks of the targets. Ranks begin at 1 and rise; 0 fills up where a query has fewer targets. Of
equal scores what is no target comes first, so that nothing is found by luck.

* R@k, mAP@k and R_s@k (within a set of images that are alike) are those of "Zero-Shot Composed Image Retrieval with
  Textual Inversion" (Baldrati et al. 2023, arXiv 2303.15247) and "Image Retrieval on Real-life Images with Pre-trained
  Vision-and-Language Models" (Liu et al. 2021, arXiv 2108.04024).
* `composed_average_precision`, `recall` and `precision` of many targets are those of "Composed Image Retrieval for
  Training-Free Domain Conversion" (Efthymiadis et al. 2024, arXiv 2412.03297).

What a random order gives is worked out, not drawn: G places hold R targets, all orders alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER_ZERO = 1e-5
"""Added to the number of targets, as released."""


class TargetRanks:
    """Counts of what scores at least as high as each target, block by block.

    Args:
        scores: (Q, R) of the targets, -inf where there are fewer.
    """

    def __init__(self, scores: Tensor):
        self._order = scores.argsort(dim=1, descending=True, stable=True)  # (Q, R)
        self._rising = scores.sort(dim=1).values.contiguous()
        self._there = self._rising.flip(1).isfinite()
        self._above = torch.zeros(scores.shape, dtype=torch.int64)

    def count(self, scores: Tensor) -> None:
        """Take in a block (Q, n) of the gallery, its targets and what does not count at -inf."""
        buckets = self._rising.shape[1] + 1
        reached = torch.searchsorted(self._rising, scores.contiguous(), right=True)  # (Q, n) in 0..R
        reached += torch.arange(len(scores))[:, None] * buckets
        counts = torch.bincount(reached.flatten(), minlength=len(scores) * buckets).view(-1, buckets)
        self._above += counts.flip(1).cumsum(dim=1)[:, :-1]

    @property
    def ranks(self) -> Tensor:
        """(Q, R) rising, 0 where there are fewer."""
        return (self._above + torch.arange(1, self._above.shape[1] + 1)).where(self._there, 0)


def target_ranks(scores: Tensor, targets: Tensor, left_out: Tensor | None = None) -> Tensor:
    """(Q, R) ranks, of scores that are all there.

    Args:
        scores: (Q, G).
        targets: (Q, R) int64 places, -1 where there are fewer.
        left_out: (Q,) int64 place of the reference, where it is no result.
    """
    scores = scores.clone()
    if left_out is not None:
        scores.scatter_(1, left_out[:, None], -torch.inf)
    there = targets >= 0
    of_targets = scores.gather(1, targets.clamp(min=0)).masked_fill(~there, -torch.inf)
    counted = TargetRanks(of_targets)
    query, place = there.nonzero()[:, 0], targets[there]
    scores[query, place] = -torch.inf
    counted.count(scores)
    return counted.ranks


def is_found(ranks: Tensor, k: int) -> Tensor:
    """(Q,) bool: a target is among the first k, whose mean is R@k; R_s@k of ranks in the set."""
    return ((ranks > 0) & (ranks <= k)).any(dim=1)


def average_precision_at(ranks: Tensor, k: int) -> Tensor:
    """(Q,) float64: precision at each target among the first k, over min(targets, k); its mean is mAP@k."""
    places = torch.arange(1, ranks.shape[1] + 1)
    precision = (places / ranks.double()).where((ranks > 0) & (ranks <= k), 0.0)
    return precision.sum(dim=1) / (ranks > 0).sum(dim=1).clamp(max=k)


def composed_average_precision(ranks: Tensor) -> Tensor:
    """(Q,) float64, by the trapezoid rule: the mean of the precision before and at each target."""
    places = torch.arange(1, ranks.shape[1] + 1).double()
    at, before = places / ranks, ((places - 1) / (ranks - 1)).where(ranks > 1, 1.0)
    return ((at + before) / 2).where(ranks > 0, 0.0).sum(dim=1) / ((ranks > 0).sum(dim=1) + NEVER_ZERO)


def recall(ranks: Tensor, k: int) -> Tensor:
    """(Q,) float64: the share of the targets that is among the first k."""
    return ((ranks > 0) & (ranks <= k)).sum(dim=1) / ((ranks > 0).sum(dim=1) + NEVER_ZERO).double()


def precision(ranks: Tensor, k: int) -> Tensor:
    """(Q,) float64: targets among the first k over min(targets, k)."""
    hits, targets = ((ranks > 0) & (ranks <= k)).sum(dim=1), (ranks > 0).sum(dim=1)
    return hits / (targets.clamp(max=k) + NEVER_ZERO).double()


def random_is_found(targets: Tensor, size: Tensor | int, k: int) -> Tensor:
    """(Q,) chance that one of R targets is among the first k of G.

    Args:
        targets: (Q,) R of each. size: G.
    """
    size, targets = torch.as_tensor(size).double(), targets.double()
    drawn = torch.arange(k, dtype=torch.float64)[:, None]
    missed = ((size - targets - drawn).clamp(min=0) / (size - drawn).clamp(min=1)).prod(dim=0)
    return (1 - missed).where(size > k, 1.0)


def random_average_precision_at(targets: Tensor, size: int, k: int) -> Tensor:
    """(Q,) mean of `average_precision_at` over all orders."""
    rank = torch.arange(1, min(k, size) + 1).double()[:, None]
    targets = targets.double()
    at = (1 + (rank - 1) * (targets - 1) / max(size - 1, 1)) / rank  # precision, where a target stands there
    return (targets / size * at).sum(dim=0) / targets.clamp(max=k)


def random_average_precision(targets: Tensor, size: int) -> Tensor:
    """(Q,) mean of `composed_average_precision` over all orders."""
    rank = torch.arange(1, size + 1).double()[:, None]
    targets = targets.double()
    others = (targets - 1) / max(size - 1, 1)
    at, before = (1 + (rank - 1) * others) / rank, others.expand(size, -1).where(rank > 1, 1.0)
    return (targets / size * (at + before) / 2).sum(dim=0) / (targets + NEVER_ZERO)


def random_recall(targets: Tensor, size: int, k: int) -> Tensor:
    """(Q,) mean of `recall` over all orders."""
    targets = targets.double()
    return min(k, size) * targets / size / (targets + NEVER_ZERO)


def random_precision(targets: Tensor, size: int, k: int) -> Tensor:
    """(Q,) mean of `precision` over all orders."""
    targets = targets.double()
    return min(k, size) * targets / size / (targets.clamp(max=k) + NEVER_ZERO)
