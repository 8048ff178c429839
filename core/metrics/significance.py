"""How certain a number is: bootstrap intervals, and tests of a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .classification import BINS, probabilities

SIGNIFICANT = 0.05
"""p values below it are called more than chance."""


@dataclass(frozen=True)
class McNemar:
    """A paired comparison of two classifiers on the same images.

    Attributes:
        gained: images only the second has right.
        lost: images only the first has right.
        p_value: chance of a split at least as uneven if both were equally good; two-sided, exact.
    """

    gained: int
    lost: int
    p_value: float


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an accuracy ("Probable inference, the law of succession, and statistical inference",
    Wilson 1927); it stays in 0..1 and holds for few images and for accuracies near 0 and 1.

    Args:
        correct: images that are right.
        total: images in all.
        level: how often such intervals hold the true accuracy.

    Returns:
        (low, high) in 0..1.

    Raises:
        DataError: no images, or more right than there are.
    """
    from scipy.stats import binomtest

    if not 0 <= correct <= total or total == 0:
        raise DataError(f"{correct} of {total} images right: no accuracy can be told from that")
    interval = binomtest(correct, total).proportion_ci(confidence_level=level, method="wilson")
    return max(0.0, float(interval.low)), min(1.0, float(interval.high))


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> McNemar:
    """McNemar's exact test: a sign test on the images where only one of the two is right ("Note on the sampling error
    of the difference between correlated proportions or percentages", McNemar 1947).

    Args:
        correct_a: (N,) bool, which images the first classifier has right.
        correct_b: (N,) bool, the second.

    Raises:
        DataError: sizes disagree.
    """
    from scipy.stats import binomtest

    a, b = torch.as_tensor(correct_a).bool().cpu(), torch.as_tensor(correct_b).bool().cpu()
    if a.shape != b.shape:
        raise DataError(f"a paired test needs the same images: {tuple(a.shape)} and {tuple(b.shape)}")
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    p_value = 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)
    return McNemar(gained, lost, p_value)


def p_words(p: float) -> str:
    """p = 0.032, or p < 0.0001."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


# "Bootstrap Methods: Another Look at the Jackknife" (Efron 1979), percentile intervals.

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
    as_lists = {side: None if interval is None else list(interval) for side, interval in intervals.items()}
    return {"intervals": as_lists, "gain_interval": None if gain is None else list(gain)}


def _macro_auroc_draws(logits: Tensor, labels: Tensor, samples: int, seed: int) -> Tensor:
    """(S,) float64 macro AUROC of each draw, over the labels that have both values in it; NaN where none has."""
    labels = probabilities(logits, labels)[1]  # checked
    scores = logits.detach().double().cpu()
    generator = torch.Generator().manual_seed(seed)
    ranked = [_ranked(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]
    parts, chunk = [], max(1, NUMBERS_AT_ONCE // len(scores))
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        drawn = torch.randint(len(scores), (rows, len(scores)), generator=generator)  # (s, N)
        weight = torch.zeros(rows, len(scores)).scatter_add_(1, drawn, torch.ones(1).expand(drawn.shape))
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


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions with a confidence in [low, high).

    Attributes:
        low, high: edges of the bin; the last bin holds 1 too.
        count: predictions in it.
        confidence: their mean confidence, None where there are none.
        accuracy: the share of them that is right, None where there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def calibration_curve(logits: Tensor, labels: Tensor, bins: int = BINS) -> list[CalibrationBin]:
    """The reliability diagram behind the expected calibration error ("On Calibration of Modern Neural Networks",
    Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (N, C).
        labels: (N,) class indices: the confidence is that of the top class. Or (N, C) 0/1/NaN: it is the probability
            of each known label, and `accuracy` is how often the label holds.
        bins: how many equal bins between 0 and 1.

    Returns:
        `bins` bins in order. The count-weighted mean of |accuracy - confidence| is the ECE.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    if labels.ndim == 2:
        known = ~labels.isnan()
        confidence, right = probs[known], labels[known]  # (K,)
    else:
        predicted = logits.detach().cpu().argmax(dim=1)  # (N,)
        confidence = probs.gather(1, predicted[:, None]).squeeze(1)  # (N,)
        right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float32)
    where = (torch.bucketize(confidence.float(), edges, right=True) - 1).clamp(max=bins - 1)
    count = torch.bincount(where, minlength=bins)
    conf_sum = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, confidence)
    right_sum = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, right)
    return [
        CalibrationBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            count=int(count[b]),
            confidence=float(conf_sum[b] / count[b]) if count[b] else None,
            accuracy=float(right_sum[b] / count[b]) if count[b] else None,
        )
        for b in range(bins)
    ]
