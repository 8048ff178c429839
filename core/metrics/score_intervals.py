"""The interval of each score of a classifier, named as in `classification`; those of AUROCs follow the smaller class.

The variance of an AUROC is DeLong's ("Comparing the areas under two or more correlated receiver operating
characteristic curves: a nonparametric approach", DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988), with groups
Obuchowski's ("Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997), but no less than Hanley and
McNeil's ("The meaning and use of the area under a receiver operating characteristic (ROC) curve", Radiology 143, 1982):
near 1 a few images tell hardly any spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .classification import log_odds, probabilities
from .intervals import (
    LEVEL,
    Array,
    Difference,
    Limits,
    balanced_interval,
    mover,
    normal_level,
    normal_quantile,
    p_of_intervals,
    share_interval,
    t_quantile,
    units_of,
    wilson,
)
from .significance import calibration_draws, f1_draws, intervals_of, label_f1_draws, precision_draws

MOST_RANKED = 5_000_000
"""Scores (images x classes) above which an AUROC has no interval: each class sorts all of its own."""
FEWEST_OF_CLASS = 10
"""Images, or groups, of each class from which on macro F1 and mean average precision have an interval: draws of fewer
are too much alike to tell how far other images differ."""
Groups = Sequence[str] | None
Intervals = dict[str, list[float]]


def score_intervals(
    logits: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups = None
) -> Intervals:
    """Metric -> [low, high] of 95 %.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) 0, 1 or NaN.
        values: metric -> its value on all images, as `classification_metrics` or `multilabel_metrics` gives it.
        groups: N keys of images that belong together, or None.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    if labels.ndim == 1:
        intervals = answer_intervals(logits.argmax(dim=1).cpu(), labels, values, groups)
    else:
        intervals = label_answer_intervals(probs > 0.5, labels, values, groups)
        if (fewest := _fewest(labels, groups)) >= FEWEST_OF_CLASS:
            draws = {"mean_average_precision": precision_draws(logits, labels, groups)}
            intervals |= intervals_of(draws, _wider(fewest), fewest, values)
    intervals |= calibration_interval(logits, labels, values["ece"], groups)
    return intervals | _auroc_intervals(logits, labels, values, groups)


def answer_intervals(
    answers: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups = None
) -> Intervals:
    """Of accuracy, balanced accuracy and macro F1 of answers (N,); arguments as for `score_intervals`."""
    right, fewest = answers == labels, _fewest(labels, groups)
    intervals = {
        "accuracy": share_interval(right, groups),
        "balanced_accuracy": balanced_interval(right, labels, groups),
    }
    if fewest >= FEWEST_OF_CLASS:
        classes = int(max(answers.max(), labels.max())) + 1
        draws = {"macro_f1": f1_draws(answers, labels, classes, groups)}
        intervals |= intervals_of(draws, _wider(fewest), fewest, values)
    return intervals


def label_answer_intervals(
    answers: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups = None
) -> Intervals:
    """Of accuracy and macro F1 of yes-no answers (N, C) to labels (N, C); arguments as for `score_intervals`."""
    rows, columns = (~labels.isnan()).nonzero(as_tuple=True)
    right = (answers == (labels == 1))[rows, columns]
    intervals = {"accuracy": share_interval(right, units_of(groups, len(labels))[0][rows])}
    if (fewest := _fewest(labels, groups)) >= FEWEST_OF_CLASS:
        intervals |= intervals_of({"macro_f1": label_f1_draws(answers, labels, groups)}, _wider(fewest), fewest, values)
    return intervals


def calibration_interval(logits: Tensor, labels: Tensor, value: float | None, groups: Groups = None) -> Intervals:
    """Of the expected calibration error; arguments as for `score_intervals`."""
    draws = {"ece": calibration_draws(logits, labels, groups)}
    return intervals_of(draws, units=units_of(groups, len(labels))[1], values={"ece": value})


def precision_interval(value: float, truth: Tensor, groups: Groups = None) -> list[float] | None:
    """[low, high] of the average precision of one label: normal limits of its log-odds, whose variance is
    1 / (n value (1 - value)) with n positives ("Area under the precision-recall curve: point estimates and confidence
    intervals", Boyd, Eng and Page 2013), with Student's t; where all is ranked right, what n leave open.

    Args:
        value: on all images.
        truth: (N,) bool.
        groups: N keys of images that belong together, or None; then n is the number of groups with a positive.

    Returns:
        None where fewer than two units are positive.
    """
    from scipy.special import expit

    unit, units = units_of(groups, len(truth))
    count = int(_units_with(truth[:, None], unit, units))
    if count < 2:
        return None
    if value >= 1:
        return [((1 - LEVEL) / 2) ** (1 / count), 1.0]
    middle, reach = np.log(value / (1 - value)), t_quantile(count - 1) / np.sqrt(count * value * (1 - value))
    return [float(expit(end)) for end in (middle - reach, middle + reach)]


def auroc_interval(
    logits: Tensor, labels: Tensor, groups: Sequence[str] | None = None, level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval of the macro AUROC, which follows the label of which the fewest images tell.

    Args:
        logits: (N, C).
        labels: (N, C) 0, 1 or NaN, or (N,) class indices.
        groups: N keys of images that belong together, or None.
        level: how often such intervals hold the true value.

    Returns:
        (low, high); None where no label has both values.

    Raises:
        DataError: as `probabilities`.
    """
    aurocs = Aurocs.of_logits(logits, labels, groups)
    return aurocs.interval(level) if len(aurocs) else None


def _auroc_intervals(logits: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups) -> Intervals:
    """Of the mean, and with several labels of each."""
    if values["auroc"] is None or logits.numel() > MOST_RANKED:
        return {}
    aurocs = Aurocs.of_logits(logits, labels, groups)
    names = [key for key, value in values.items() if key.startswith("auroc/") and value is not None]
    of_labels = {name: bounds for name, *bounds in zip(names, *(each.tolist() for each in aurocs.limits()))}
    return {"auroc": list(aurocs.interval()), **of_labels}


def _fewest(labels: Tensor, groups: Groups) -> int:
    """Units of the class that has the fewest, among those that have any; of several labels also of those without."""
    unit, units = units_of(groups, len(labels))
    if labels.ndim == 1:
        cells = torch.stack([labels, unit]).unique(dim=1)[0]
        return int(cells.unique(return_counts=True)[1].min())
    counts = torch.stack([_units_with(labels == value, unit, units) for value in (0, 1)])  # (2, C)
    scored = (counts > 0).all(dim=0)
    return int(counts[:, scored].min()) if scored.any() else 0


def _units_with(true: Tensor, unit: Tensor, units: int) -> Tensor:
    """(C,) units of which a row is true."""
    return torch.zeros(units, true.shape[1]).index_add_(0, unit, true.float()).gt(0).sum(dim=0)


def _wider(fewest: int) -> float:
    """The level of percentiles that hold the truth as often as those of Student's t: draws with replacement vary less
    than samples do ("What teachers should know about the bootstrap", Hesterberg 2015, arXiv 1411.5279)."""
    return normal_level(float(t_quantile(fewest - 1) * np.sqrt(fewest / (fewest - 1))))


GUESSING = 0.5
ALIKE = 1e-9
"""Standard errors below it are rounding."""
UNKNOWN = 0.5
"""The largest standard deviation of what lies in 0..1: a single unit tells none."""
MANY = 1e9
"""Degrees of freedom of a variance that is known."""


@dataclass(frozen=True, eq=False)
class Aurocs:
    """The AUROCs of K labels, of whose two values both occur.

    Attributes:
        values: (K,).
        fewer: (K,) units of the value that fewer units have.
        influence: (U, K) what each unit (an image, a patient) adds to the error of each; the sum of products of two
            columns is their covariance.
        apart: (K,) variance that no influence tells: where all is ranked right, that of which `fewer` units leave open
            as much.
    """

    values: Array
    fewer: Array
    influence: Array
    apart: Array

    @classmethod
    def of(cls, scores: Tensor, truth: Tensor, groups: Sequence[str] | Tensor | None = None) -> Aurocs:
        """Of scores, a label each.

        Args:
            scores: (N, C), or (S, N, C) of S fits, whose mean it is.
            truth: (N, C) 0, 1 or NaN for unknown; a label without both values is left out.
            groups: N keys of images that belong together, or None.
        """
        unit, units = units_of(groups, len(truth))
        fits = scores.double().cpu().reshape(-1, *truth.shape).numpy()
        scored = ((truth == 1).any(dim=0) & (truth == 0).any(dim=0)).nonzero().flatten().tolist()
        values, influence = np.zeros(len(scored)), np.zeros((units, len(scored)))
        fewer, apart = np.ones(len(scored)), np.zeros(len(scored))
        for place, c in enumerate(scored):
            truth_of_label = truth[:, c].cpu().numpy()
            of_fits = [_of_label(fit[:, c], truth_of_label, unit.numpy(), units) for fit in fits]
            values[place], error, influence[:, place] = (np.mean(each, axis=0) for each in list(zip(*of_fits))[1:])
            fewer[place], apart[place] = of_fits[0][0], error**2
        return cls(values, fewer, influence, apart)

    @classmethod
    def of_logits(cls, logits: Tensor, labels: Tensor, groups: Sequence[str] | Tensor | None = None) -> Aurocs:
        """Of logits (N, C) and labels (N, C), or labels (N,), of which each class is ranked against all others."""
        labels = probabilities(logits, labels)[1]  # checked
        if labels.ndim == 2:
            return cls.of(logits, labels, groups)
        truth = torch.nn.functional.one_hot(labels, logits.shape[1]).double()
        return cls.of(log_odds(logits.detach().double().cpu()), truth, groups)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def macro(self) -> float:
        """The mean over labels."""
        return float(self.values.mean())

    @cached_property
    def variance(self) -> Array:
        """(K,)."""
        return np.square(self.influence).sum(axis=0) + self.apart

    @property
    def freedom(self) -> Array:
        """(K,) degrees of freedom of the variance; that of a single unit is no estimate."""
        return np.where(self.fewer > 1, self.fewer - 1, MANY)

    def limits(self, level: float = LEVEL, *, pooled: bool = False) -> Limits:
        """(K,) low and high of each label: Wilson's, of as many images as have this variance, with t in place of the
        normal distribution, one degree of freedom less than the rarer value has units. Where all is ranked right, what
        these units leave open.

        Args:
            pooled: all with the degrees of freedom of their mean.
        """
        quantile = t_quantile(_pooled(self.variance, self.freedom) if pooled else self.freedom, level)
        least = ((1 - level) / 2) ** (1 / self.fewer)
        low, high = wilson(self.values, np.maximum(self.values * (1 - self.values), 1e-12) / self.variance, quantile)
        low = np.where(self.values >= 1, least, np.where(self.values <= 0, 0.0, low))
        return low, np.where(self.values <= 0, 1 - least, np.where(self.values >= 1, 1.0, high))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Of the mean over labels."""
        low, high = mover(self.values, self.limits(level, pooled=True), self._together)
        return max(0.0, float(low)), min(1.0, float(high))

    def _together(self, errors: Array) -> float:
        scale = errors / np.sqrt(self.variance)
        return float(np.square(self.influence @ scale).sum() + np.square(scale).dot(self.apart))


def auroc_difference(before: Aurocs | None, after: Aurocs) -> Difference:
    """What the second of two models gains in macro AUROC on the same images: DeLong's test of correlated AUROCs, with
    these variances and Student's t.

    Args:
        before: of the same units and labels; None for guessing, whose AUROC is 0.5.
    """
    from scipy.special import stdtr

    if before is None:
        value = after.macro - GUESSING

        def above_guessing(level: float = LEVEL) -> tuple[float, float]:
            low, high = after.interval(level)
            return low - GUESSING, high - GUESSING

        return Difference(value, above_guessing, lambda: p_of_intervals(above_guessing))
    value, apart = after.macro - before.macro, (before.apart.sum() + after.apart.sum()) / len(after) ** 2
    error = float(np.sqrt(np.square((after.influence - before.influence).mean(axis=1)).sum() + apart))
    freedom = _pooled(before.variance + after.variance, after.freedom)
    if error < ALIKE:  # all images are ranked alike
        error = _left_open(after.fewer.min())

    def interval(level: float = LEVEL) -> tuple[float, float]:
        reach = float(t_quantile(freedom, level)) * error
        return max(-1.0, value - reach), min(1.0, value + reach)

    return Difference(value, interval, lambda: float(2 * stdtr(freedom, -abs(value) / error)))


@dataclass(frozen=True)
class PairedAurocs:
    """Two AUROCs of the same images.

    Attributes:
        first, second: of the two models.
        difference, interval: first less second.
        z, p_value: of the difference, two-sided.
    """

    first: float
    second: float
    difference: float
    interval: Sequence[float]
    z: float
    p_value: float


def delong_test(
    first: Tensor, second: Tensor, truth: Tensor, groups: Sequence[str] | Tensor | None = None, level: float = LEVEL
) -> PairedAurocs | None:
    """The paired test as published: "Comparing the areas under two or more correlated receiver operating characteristic
    curves: a nonparametric approach" (DeLong et al., Biometrics 44, 1988), with the normal distribution; of patients
    with several images "Nonparametric analysis of clustered ROC curve data" (Obuchowski, Biometrics 53, 1997).

    Scores that rank all images alike have p = 1, and an interval that says what so few units leave open.

    Args:
        first, second: (N,) scores of two models.
        truth: (N,) 0, 1 or NaN for unknown.
        groups: N keys of images that belong together, or None.

    Returns:
        None where fewer than two units have a value, or lack it.
    """
    from scipy.special import ndtr

    unit, units = units_of(groups, len(truth))
    both = [
        components(scores.double().cpu().numpy(), truth.cpu().numpy(), unit.numpy(), units)
        for scores in (first, second)
    ]
    (one, of_one, fewer), (other, of_other, _) = both
    if fewer < 2:
        return None
    difference, error = one - other, float(np.linalg.norm(of_one - of_other))
    error = error if error >= ALIKE else _left_open(fewer)
    z, reach = difference / error, normal_quantile(level) * error
    interval = [max(-1.0, difference - reach), min(1.0, difference + reach)]
    return PairedAurocs(one, other, difference, interval, z, float(2 * ndtr(-abs(z))))


def _pooled(variance: Array, freedom: Array) -> float:
    """Degrees of freedom of a sum of estimates ("An approximate distribution of estimates of variance components",
    Satterthwaite 1946)."""
    return float(variance.sum() ** 2 / (np.square(variance) / freedom).sum())


def _left_open(fewer: float) -> float:
    """The standard error whose interval reaches as far as what is left open by that many units that are all right."""
    return float((1 - ((1 - LEVEL) / 2) ** (1 / fewer)) / t_quantile(fewer - 1))


def components(scores: Array, truth: Array, unit: Any, units: int) -> tuple[float, Array, int]:
    """DeLong's structural components, added up by unit as Obuchowski does.

    Args:
        scores, truth: (N,); NaN is unknown.
        unit: (N,) int64, which unit each image belongs to.
        units: U.

    Returns:
        The AUROC; (U,) what each unit adds to its error, whose squares sum to its variance, and whose products with
        those of another AUROC to the covariance; and the units of the rarer value.
    """
    positive, negative = truth == 1, truth == 0
    above, below = _chances(scores[positive], scores[negative]), _chances(scores[negative], scores[positive])
    value, influence, fewer = float(above.mean()), np.zeros(units), units
    for rows, errors in ((positive, above - value), (negative, 1 - below - value)):
        own = len(np.unique(unit[rows]))
        influence += np.sqrt(own / max(1, own - 1)) / len(errors) * np.bincount(unit[rows], errors, units)
        fewer = min(fewer, own)
    return value, influence, fewer


def _of_label(scores: Array, truth: Array, unit: Any, units: int) -> tuple[int, float, float, Array]:
    """Units of the rarer value, AUROC, standard error that no influence tells, influence of each unit (U,)."""
    value, influence, fewer = components(scores, truth, unit, units)
    if fewer < 2:
        return fewer, value, UNKNOWN, np.zeros(units)
    if not 0 < value < 1:
        return fewer, value, _left_open(fewer), np.zeros(units)
    least = hanley_mcneil(value, int((truth == 1).sum()), int((truth == 0).sum()))
    variance = float(np.square(influence).sum())
    if variance < ALIKE**2:  # each image ranks like the others of its value
        return fewer, value, float(np.sqrt(least)), np.zeros(units)
    return fewer, value, 0.0, influence * np.sqrt(max(1.0, least / variance))


def _chances(scores: Array, others: Array) -> Array:
    """Share of others below each score, ties counted half."""
    others = np.sort(others)
    return (np.searchsorted(others, scores) + np.searchsorted(others, scores, side="right")) / 2 / len(others)


def hanley_mcneil(value: float, positives: int, negatives: int) -> float:
    """The variance where scores of both values are exponentially distributed."""
    two_positives, two_negatives = value / (2 - value) - value**2, 2 * value**2 / (1 + value) - value**2
    pairs = value * (1 - value) + (positives - 1) * two_positives + (negatives - 1) * two_negatives
    return pairs / (positives * negatives)
