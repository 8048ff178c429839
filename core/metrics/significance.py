"""How certain a number is: bootstrap intervals, and tests of a difference.

The test sets of repeated splits overlap, and so do their training sets: the scores are correlated, and an ordinary
t-test calls far too much significant. "Inference for the Generalization Error" (Nadeau and Bengio, Machine Learning 52,
2003, doi 10.1023/A:1024068626366) adds the share that overlaps to the variance (`corrected_t_test`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from .classification import BINS, probabilities
from .resampling import LEVEL, SAMPLES, centred, mean_draws, metric_draws, percentiles, units_of

SIGNIFICANT = 0.05
"""p values below it are called more than chance."""
ROUNDING = 1e-9
"""By which a share of all, a sum of weights, may miss 1."""


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
        raise DataError(f"{correct} of {total} images right: that gives no accuracy")
    interval = binomtest(correct, total).proportion_ci(confidence_level=level, method="wilson")
    return max(0.0, float(interval.low)), min(1.0, float(interval.high))


def share_interval(right: Tensor, groups: Sequence[str] | None = None) -> list[float]:
    """[low, high] of a share: Wilson's, or a bootstrap of whole groups.

    Args:
        right: (N,) bool.
        groups: N keys of images that belong together, or None.
    """
    if groups is not None and units_of(groups, len(right))[1] < len(right):
        return mean_interval(right.double(), groups)
    return list(wilson_interval(int(right.sum()), len(right)))


def mean_interval(values: Tensor, groups: Sequence[str] | None = None) -> list[float]:
    """[low, high] of a mean, from a bootstrap of images, or of whole groups.

    Args:
        values: (N,) in 0..1.
        groups: N keys of images that belong together, or None.
    """
    unit, units = units_of(groups, len(values))
    draws = mean_draws({"mean": values}, unit)
    return intervals_of(draws, units=units, values={"mean": float(values.double().mean())})["mean"]


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


def bootstrap_interval(
    logits: Tensor,
    labels: Tensor,
    *,
    baseline: Tensor | None = None,
    groups: Sequence[str] | None = None,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The interval of the macro AUROC over labels, or of its gain over a baseline on the same draws.

    Args:
        logits: (N, C).
        labels: (N, C) 0, 1 or NaN.
        baseline: (N, C) logits of another model; then the interval is that of the difference.
        groups: N keys; then groups are drawn.
        samples: draws of N images, or of all groups, with replacement.
        level: how often such intervals hold the true value.
        seed: fixes the draws.

    Returns:
        (low, high); None where no label has both values.

    Raises:
        DataError: as `probabilities`.
    """
    draws = metric_draws(logits, labels, groups, samples=samples, seed=seed)["auroc"]  # (S,)
    if baseline is not None:
        draws = draws - metric_draws(baseline, labels, groups, samples=samples, seed=seed)["auroc"]
    return percentiles(draws, level)


def intervals_of(
    draws: Mapping[str, Tensor],
    level: float = LEVEL,
    units: int | None = None,
    values: Mapping[str, float] | None = None,
) -> dict[str, list[float]]:
    """Metric -> [low, high], the percentiles of its draws ("Bootstrap Methods: Another Look at the Jackknife", Efron
    1979). Where all draws agree (everything right, say) Wilson's interval over the units takes their place: they would
    claim certainty.

    Args:
        draws: metric -> (S,).
        level: how often such intervals hold the true value.
        units: images, or groups, that were drawn.
        values: metric -> its value on all images, which its interval then holds. Draws of those are moved by their
            bias: a draw that misses a rare class, or sees an image twice, is on average better or worse.
    """
    found = {}
    for name, of in draws.items():
        value = (values or {}).get(name)
        bounds = percentiles(of if value is None else centred(of, value), level)
        if bounds is not None:
            low, high = _never_certain(bounds, units, level)
            found[name] = [low, high] if value is None else [max(0.0, min(low, value)), min(1.0, max(high, value))]
    return found


def _never_certain(bounds: tuple[float, float], units: int | None, level: float) -> tuple[float, float]:
    all_or_none = round(bounds[0])
    if units is None or all_or_none not in (0, 1) or max(abs(bound - all_or_none) for bound in bounds) > ROUNDING:
        return bounds
    return wilson_interval(all_or_none * units, units, level)


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
