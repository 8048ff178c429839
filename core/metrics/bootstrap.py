"""How sure a macro AUROC is, by drawing the test images again and again.

"Bootstrap Methods: Another Look at the Jackknife" (Efron 1979), percentile intervals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .probabilities import probabilities

SAMPLES = 1000
LEVEL = 0.95
NUMBERS_AT_ONCE = 4_000_000


def bootstrap_interval(
    logits: Tensor,
    labels: Tensor,
    *,
    baseline: Tensor | None = None,
    samples: int = SAMPLES,
    level: float = LEVEL,
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
    return _percentiles(draws, level)


def auroc_certainty(zero_shot: Tensor | None, adapted: Tensor, labels: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """What metrics.json says of certainty where images have several labels.

    Args:
        zero_shot: (N, C) logits, or None.
        adapted: (N, C) logits.
        labels: (N, C) 0, 1 or NaN.

    Returns:
        {"intervals": {"adapted": [low, high], "zero_shot": ...}, "gain_interval": [low, high] or None}, of macro AUROC.
    """
    after = _macro_auroc_draws(adapted, labels, SAMPLES, seed)
    intervals = {"adapted": _percentiles(after, LEVEL)}
    gain = None
    if zero_shot is not None:
        before = _macro_auroc_draws(zero_shot, labels, SAMPLES, seed)
        intervals["zero_shot"] = _percentiles(before, LEVEL)
        gain = _percentiles(after - before, LEVEL)
    as_lists = {side: None if found is None else list(found) for side, found in intervals.items()}
    return {"intervals": as_lists, "gain_interval": None if gain is None else list(gain)}


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


def _ranked(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of positives; rows of negatives by rising score; of each positive, how many negatives are below, and not
    above."""
    positive, negative = (truth == 1).nonzero().flatten(), (truth == 0).nonzero().flatten()
    rising, order = scores[negative].sort()
    wanted = scores[positive].contiguous()
    below, level = (torch.searchsorted(rising, wanted, right=side) for side in (False, True))
    return positive, negative[order], below, level


def _weighted_auroc(weight: Tensor, positive: Tensor, negative: Tensor, below: Tensor, level: Tensor) -> Tensor:
    """(s,) chance that a drawn positive scores above a drawn negative, ties counted half."""
    positives = weight[:, positive].double()  # (s, P)
    reached = torch.nn.functional.pad(weight[:, negative].double().cumsum(dim=1), (1, 0))  # (s, M + 1)
    wins = (positives * (reached[:, below] + reached[:, level])).sum(dim=1) / 2
    return wins / (positives.sum(dim=1) * reached[:, -1])  # 0 / 0 is NaN: nothing to rank in this draw


def _percentiles(draws: Tensor, level: float) -> tuple[float, float] | None:
    draws = draws[draws.isfinite()]
    if not len(draws):
        return None
    tail = (1 - level) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high
