"""Tests of a difference, and how confidence and accuracy agree.

The test sets of repeated splits overlap, and so do their training sets: the scores are correlated, and an ordinary
t-test calls far too much significant. "Inference for the Generalization Error" (Nadeau and Bengio, Machine Learning 52,
2003, doi 10.1023/A:1024068626366) adds the share that overlaps to the variance (`corrected_t_test`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .classification import BINS, probabilities
from .intervals import LEVEL, SIGNIFICANT, paired_shares, t_quantile

FEWEST_SPLITS = 5
"""Splits from which on a mean over them has an interval and a test: with fewer, Student's t spans most scores."""


@dataclass(frozen=True)
class McNemar:
    """A paired comparison of two classifiers on the same images.

    Attributes:
        gained: images only the second has right.
        lost: images only the first has right.
        p_value: chance of a split at least as uneven if both were equally good; two-sided.
    """

    gained: int
    lost: int
    p_value: float


def mcnemar(correct_a: Tensor, correct_b: Tensor, groups: Sequence[str] | Tensor | None = None) -> McNemar:
    """McNemar's test, which agrees with the interval of `paired_shares`.

    Args:
        correct_a: (N,) bool, which images the first classifier has right.
        correct_b: (N,) bool, the second.
        groups: N keys of images that belong together, or None.

    Raises:
        DataError: sizes disagree.
    """
    found = paired_shares(correct_a, correct_b, groups)
    return McNemar(found.gained, found.lost, found.p_value)


def p_words(p: float) -> str:
    """p = 0.032, or p < 0.0001."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


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


def corrected_t_test(differences: Sequence[float], test_over_train: float) -> float | None:
    """The corrected resampled t-test.

    Args:
        differences: of the scores of two methods, one per split.
        test_over_train: test images of a split divided by all its others.

    Returns:
        The two-sided p value; None of fewer than five splits.
    """
    from scipy.special import stdtr

    count = len(differences)
    if count < FEWEST_SPLITS:
        return None
    mean, variance = statistics.fmean(differences), statistics.variance(differences)
    if variance < 1e-18:
        return 1.0 if abs(mean) < 1e-9 else 0.0
    statistic = mean / math.sqrt((1 / count + test_over_train) * variance)
    return float(2 * stdtr(count - 1, -abs(statistic)))


def corrected_interval(
    differences: Sequence[float], test_over_train: float, level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval of the mean difference that belongs to `corrected_t_test`; None of fewer than five splits."""
    count = len(differences)
    if count < FEWEST_SPLITS:
        return None
    error = math.sqrt((1 / count + test_over_train) * statistics.variance(differences))
    reach = float(t_quantile(count - 1, level)) * error
    return statistics.fmean(differences) - reach, statistics.fmean(differences) + reach


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number ("A simple sequentially rejective multiple test procedure", Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def adjusted_level(p_value: float, adjusted: float) -> float:
    """The level of the interval that agrees with an adjusted p value: it leaves out 0 where that is below 0.05
    ("Multiple inferences using confidence intervals", Ludbrook 2000).

    Args:
        p_value: of the test alone.
        adjusted: as `holm` gives it.
    """
    return 1 - SIGNIFICANT * (p_value / adjusted if adjusted > 0 else 1)
