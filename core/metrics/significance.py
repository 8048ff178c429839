"""Tests of a difference, draws of the test images for scores without an interval in closed form, and how confidence and
accuracy agree.

Images of one group (a patient, a video) are no independent observations: where there are groups, a bootstrap draws
groups with replacement ("Bootstrap-based improvements for inference with clustered errors", Cameron, Gelbach and Miller
2008), and a permutation test exchanges the answers of whole groups.

The test sets of repeated splits overlap, and so do their training sets: the scores are correlated, and an ordinary
t-test calls far too much significant. "Inference for the Generalization Error" (Nadeau and Bengio, Machine Learning 52,
2003, doi 10.1023/A:1024068626366) adds the share that overlaps to the variance (`corrected_t_test`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .classification import BINS, bin_of, probabilities
from .intervals import LEVEL, SIGNIFICANT, exact_interval, paired_shares, t_quantile, units_of

SAMPLES = 1000
NUMBERS_AT_ONCE = 4_000_000
EXCHANGES = 10_000
MOST_ENUMERATED = 13
"""Units up to which all exchanges are made."""
ROUNDING = 1e-9
"""By which a share of all, a sum of weights, may miss 1."""


def drawn_weights(
    count: int, groups: Sequence[str] | None = None, samples: int = SAMPLES, seed: int = 0
) -> Iterator[Tensor]:
    """How often each image is in each draw, (s, N) float32, in parts that fit the memory.

    Args:
        count: N images.
        groups: N keys; then groups are drawn, with all their images.
        samples: draws in all.
        seed: fixes the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    unit, units = units_of(groups, count)
    rows = max(1, NUMBERS_AT_ONCE // max(1, count))
    for start in range(0, samples, rows):
        some = min(rows, samples - start)
        drawn = torch.randint(units, (some, units), generator=generator)  # (s, U)
        times = torch.zeros(some, units).scatter_add_(1, drawn, torch.ones(1).expand(drawn.shape))
        yield times if groups is None else times[:, unit]


def f1_draws(
    predicted: Tensor,
    labels: Tensor,
    num_classes: int,
    groups: Sequence[str] | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Tensor:
    """(S,) macro F1 of answers (N,) on draws of the images."""
    right = predicted == labels

    def of_draws(weight: Tensor) -> Tensor:
        images, answers = _per_class(weight, labels, num_classes), _per_class(weight, predicted, num_classes)  # (s, C)
        f1 = 2 * _per_class(weight * right, labels, num_classes) / (images + answers)
        return f1.masked_fill(images == 0, torch.nan).nanmean(dim=1)

    return torch.cat([of_draws(weight) for weight in drawn_weights(len(labels), groups, samples, seed)])


def label_f1_draws(
    predicted: Tensor, labels: Tensor, groups: Sequence[str] | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """(S,) macro F1 of yes-no answers (N, C) to labels (N, C) on draws of the images."""
    labelled = ~labels.isnan()
    true, hits, called = ((each & labelled).double() for each in (labels == 1, predicted & (labels == 1), predicted))

    def of_draws(weight: Tensor) -> Tensor:
        weight = weight.double()
        f1 = 2 * (weight @ hits) / (weight @ true + weight @ called)  # (s, C)
        return f1.masked_fill(_one_sided(weight, labels), torch.nan).nanmean(dim=1)

    return torch.cat([of_draws(weight) for weight in drawn_weights(len(labels), groups, samples, seed)])


def precision_draws(
    logits: Tensor, labels: Tensor, groups: Sequence[str] | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """(S,) mean average precision of logits (N, C) for labels (N, C) on draws of the images."""
    logits = logits.detach().double().cpu()
    curves = [_falling(logits[:, c], labels[:, c]) for c in range(labels.shape[1])]

    def of_draws(weight: Tensor) -> Tensor:
        weight = weight.double()
        precision = torch.stack([_weighted_precision(weight, *each) for each in curves], dim=1)  # (s, C)
        return precision.masked_fill(_one_sided(weight, labels), torch.nan).nanmean(dim=1)

    return torch.cat([of_draws(weight) for weight in drawn_weights(len(labels), groups, samples, seed)])


def calibration_draws(
    logits: Tensor, labels: Tensor, groups: Sequence[str] | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """(S,) the expected calibration error on draws of the images, in the bins of `calibration_error`."""
    gaps, counts = _calibration_gaps(logits, labels)  # (N, B), (N,)
    return torch.cat(
        [
            (weight.double() @ gaps).abs().sum(dim=1) / (weight.double() @ counts)
            for weight in drawn_weights(len(labels), groups, samples, seed)
        ]
    )


def centred(draws: Tensor, value: float) -> Tensor:
    """Draws (S,) moved so that their mean is the value on all images."""
    finite = draws[draws.isfinite()]
    return draws if not len(finite) else draws + (value - finite.mean())


def percentiles(draws: Tensor, level: float = LEVEL) -> tuple[float, float] | None:
    """The middle `level` of the draws; None where none is finite."""
    draws = draws[draws.isfinite()]
    if not len(draws):
        return None
    tail = (1 - level) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=draws.dtype)).tolist()
    return low, high


def intervals_of(
    draws: Mapping[str, Tensor],
    level: float = LEVEL,
    units: int | None = None,
    values: Mapping[str, float | None] | None = None,
    by_student: bool = False,
) -> dict[str, list[float]]:
    """Metric -> [low, high], the percentiles of its draws ("Bootstrap Methods: Another Look at the Jackknife", Efron
    1979). Where all draws agree (everything right, say) the exact interval over the units takes their place: they would
    claim certainty.

    Args:
        draws: metric -> (S,).
        level: how often such intervals hold the true value.
        units: images, or groups, that were drawn.
        values: metric -> its value on all images, which its interval then holds. Draws of those are moved by their
            bias: a draw that misses a rare class, or sees an image twice, is on average better or worse.
        by_student: of few units percentiles are too narrow; take them further out (`expanded`).
    """
    outer = expanded(units, level) if by_student and units is not None else level
    intervals = {}
    for name, of in draws.items():
        value = (values or {}).get(name)
        bounds = percentiles(of if value is None else centred(of, value), outer)
        if bounds is not None:
            low, high = _never_certain(bounds, units, level)
            intervals[name] = [low, high] if value is None else [max(0.0, min(low, value)), min(1.0, max(high, value))]
    return intervals


def _never_certain(bounds: tuple[float, float], units: int | None, level: float) -> tuple[float, float]:
    all_or_none = round(bounds[0])
    if units is None or all_or_none not in (0, 1) or max(abs(bound - all_or_none) for bound in bounds) > ROUNDING:
        return bounds
    return exact_interval(all_or_none * units, units, level)


def expanded(units: int, level: float = LEVEL) -> float:
    """The level whose percentiles are those of Student's t, of two units or more ("What Teachers Should Know About the
    Bootstrap", Hesterberg 2014, arXiv 1411.5279, the expanded percentile interval)."""
    from scipy.special import ndtr

    reach = math.sqrt(units / (units - 1)) * float(t_quantile(units - 1, level))
    return float(1 - 2 * ndtr(-reach))


def exchange_test(gains: Tensor, groups: Sequence[str] | None = None, *, seed: int = 0) -> float:
    """Paired permutation test of a difference that is a sum over images ("The Design of Experiments", Fisher 1935).

    If two models were equally good, either could have given either's answers: the sign of what each unit adds to the
    difference is chance. All signs are tried up to 13 units that add something, else 10,000 draws of them.

    Args:
        gains: (N,) what each image adds to the difference.
        groups: N keys of images that are exchanged together, or None.
        seed: fixes the draws.

    Returns:
        The two-sided p value.
    """
    unit, units = units_of(groups, len(gains))
    added = torch.zeros(units, dtype=torch.float64).index_add_(0, unit, gains.double().cpu())
    added = added[added != 0]  # (U,)
    if not len(added):
        return 1.0
    least = added.sum().abs() - 1e-12
    if len(added) <= MOST_ENUMERATED:
        bits = torch.arange(2 ** len(added))[:, None] >> torch.arange(len(added)) & 1
        return float(((2.0 * bits - 1).double() @ added).abs().ge(least).double().mean())
    generator, extreme, rows = torch.Generator().manual_seed(seed), 0, max(1, NUMBERS_AT_ONCE // len(added))
    for start in range(0, EXCHANGES, rows):
        shape = (min(rows, EXCHANGES - start), len(added))
        signs = 2.0 * torch.randint(2, shape, generator=generator) - 1
        extreme += int((signs.double() @ added).abs().ge(least).sum())
    return (extreme + 1) / (EXCHANGES + 1)


def _per_class(weight: Tensor, of: Tensor, classes: int) -> Tensor:
    return torch.zeros(len(weight), classes, dtype=torch.float64).index_add_(1, of, weight.double())


def _calibration_gaps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, B) confidence minus truth of each image in the bin of the confidence, (N,) answers that an image gives."""
    probs, labels = probabilities(logits, labels)
    if labels.ndim == 1:
        confidence, predicted = probs.max(dim=1)
        probs, labels = confidence[:, None], (predicted == labels).double()[:, None]
    labelled = ~labels.isnan()
    gaps = torch.where(labelled, probs - labels, 0.0)
    table = torch.zeros(len(probs), BINS, dtype=torch.float64).scatter_add_(1, bin_of(probs), gaps)
    return table, labelled.sum(dim=1).double()


def _one_sided(weight: Tensor, labels: Tensor) -> Tensor:
    """(s, C) labels that all drawn images have, or none."""
    positives, labelled = weight @ (labels == 1).double(), weight @ (~labels.isnan()).double()
    return (positives == 0) | (positives == labelled)


def _falling(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Known rows by falling score, which of them are positive, and where each run of equal scores ends."""
    rows = (~truth.isnan()).nonzero().flatten()
    rows = rows[scores[rows].argsort(descending=True)]
    steps = scores[rows].diff() != 0
    ends = torch.cat([steps, torch.ones(min(1, len(rows)), dtype=torch.bool)]).nonzero().flatten()
    return rows, truth[rows] == 1, ends


def _weighted_precision(weight: Tensor, rows: Tensor, positive: Tensor, ends: Tensor) -> Tensor:
    """(s,) average precision: the sum over thresholds of precision times the recall it adds."""
    drawn = weight[:, rows]  # (s, M)
    reached, hits = drawn.cumsum(dim=1)[:, ends], (drawn * positive).cumsum(dim=1)[:, ends]  # (s, T)
    if not len(ends):
        return torch.full((len(weight),), torch.nan, dtype=torch.float64)
    added = hits.diff(dim=1, prepend=torch.zeros(len(hits), 1, dtype=hits.dtype))
    return (added * (hits / reached).nan_to_num(0.0)).sum(dim=1) / hits[:, -1]


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
    shares = paired_shares(correct_a, correct_b, groups)
    return McNemar(shares.gained, shares.lost, shares.p_value)


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
        labelled = ~labels.isnan()
        confidence, right = probs[labelled], labels[labelled]  # (K,)
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
