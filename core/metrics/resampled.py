"""Differences between methods over repeated splits of one data set.

The test sets of repeated splits overlap, and so do their training sets: the scores are correlated, and an ordinary
t-test calls far too much significant. "Inference for the Generalization Error" (Nadeau and Bengio, Machine Learning 52,
2003, doi 10.1023/A:1024068626366) adds the share that overlaps to the variance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def corrected_t_test(differences: Sequence[float], test_over_train: float) -> float | None:
    """The corrected resampled t-test.

    Args:
        differences: of the scores of two methods, one per split.
        test_over_train: test images of a split divided by all its others.

    Returns:
        The two-sided p value; None of fewer than two splits.
    """
    from scipy.stats import t

    count = len(differences)
    if count < 2:
        return None
    mean, variance = statistics.fmean(differences), statistics.variance(differences)
    if variance < 1e-18:
        return 1.0 if abs(mean) < 1e-9 else 0.0
    statistic = mean / math.sqrt((1 / count + test_over_train) * variance)
    return float(2 * t.sf(abs(statistic), count - 1))


def corrected_interval(
    differences: Sequence[float], test_over_train: float, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of the mean difference that belongs to `corrected_t_test`; None of fewer than two splits."""
    from scipy.stats import t

    count = len(differences)
    if count < 2:
        return None
    error = math.sqrt((1 / count + test_over_train) * statistics.variance(differences))
    reach = float(t.ppf((1 + level) / 2, count - 1)) * error
    return statistics.fmean(differences) - reach, statistics.fmean(differences) + reach


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number ("A simple sequentially rejective multiple test procedure", Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
