"""How sure a macro AUROC is, by drawing the test images again and again.

"Bootstrap Methods: Another Look at the Jackknife" (Efron 1979), percentile intervals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .probabilities import probabilities

SAMPLES = 1000
NUMBERS_AT_ONCE = 4_000_000


def bootstrap_interval(
    logits: Tensor,
    labels: Tensor,
    *,
    baseline: Tensor | None = None,
    samples: int = SAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The interval of the macro AUROC over labels, or of its gain over a baseline on the same draws.

    Args:
        logits: (N, C).
        labels: (N, C) 0, 1 or NaN.
        baseline: (N, C) logits of another model; then the interval is that of the difference.
        samples: draws of N images with replacement.
        level: how often such intervals hold the true value.
        seed: fixes the draws.

    Returns:
        (low, high); None where no label has both values.

    Raises:
        DataError: as `probabilities`.
    """
    draws = _macro_auroc_draws(logits, labels, samples, seed)  # (S,)
    if baseline is not None:
        draws = draws - _macro_auroc_draws(baseline, labels, samples, seed)
    draws = draws[draws.isfinite()]
    if not len(draws):
        return None
    tail = (1 - level) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high


def auroc_certainty(zero_shot: Tensor | None, adapted: Tensor, labels: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """What metrics.json says of certainty where images have several labels.

    Args:
        zero_shot: (N, C) logits, or None.
        adapted: (N, C) logits.
        labels: (N, C) 0, 1 or NaN.

    Returns:
        {"intervals": {"adapted": [low, high], "zero_shot": ...}, "gain_interval": [low, high] or None}, of macro AUROC.
    """
    intervals = {"adapted": _as_list(bootstrap_interval(adapted, labels, seed=seed))}
    if zero_shot is None:
        return {"intervals": intervals, "gain_interval": None}
    intervals["zero_shot"] = _as_list(bootstrap_interval(zero_shot, labels, seed=seed))
    gain = bootstrap_interval(adapted, labels, baseline=zero_shot, seed=seed)
    return {"intervals": intervals, "gain_interval": _as_list(gain)}


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _macro_auroc_draws(logits: Tensor, labels: Tensor, samples: int, seed: int) -> Tensor:
    """(S,) float64 macro AUROC of each draw, over the labels that have both values in it; NaN where none has."""
    probs, labels = probabilities(logits, labels)
    generator = torch.Generator().manual_seed(seed)
    ranked = [_ranked(probs[:, c], labels[:, c]) for c in range(probs.shape[1])]
    parts, chunk = [], max(1, NUMBERS_AT_ONCE // len(probs))
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        drawn = torch.randint(len(probs), (rows, len(probs)), generator=generator)  # (s, N)
        weight = torch.zeros(rows, len(probs)).scatter_add_(1, drawn, torch.ones(1).expand(drawn.shape))
        parts.append(torch.stack([_weighted_auroc(weight, *label) for label in ranked], dim=1).nanmean(dim=1))
    return torch.cat(parts)


def _ranked(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Rows of positives and of negatives, and each row's rank among the distinct scores."""
    distinct, rank = scores.unique(return_inverse=True)  # (U,), (N,)
    return (truth == 1).nonzero().flatten(), (truth == 0).nonzero().flatten(), rank, len(distinct)


def _weighted_auroc(weight: Tensor, positive: Tensor, negative: Tensor, rank: Tensor, distinct: int) -> Tensor:
    """(s,) chance that a drawn positive scores above a drawn negative, ties counted half."""
    positives, negatives = weight[:, positive].double(), weight[:, negative].double()  # (s, P), (s, M)
    per_rank = positives.new_zeros(len(weight), distinct).index_add_(1, rank[negative], negatives)
    below = per_rank.cumsum(dim=1) - per_rank / 2  # (s, U) negatives below, and half of those level
    wins = (positives * below[:, rank[positive]]).sum(dim=1)
    return wins / (positives.sum(dim=1) * negatives.sum(dim=1))  # 0 / 0 is NaN: nothing to rank in this draw
