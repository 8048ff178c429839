"""Where a probability is cut, and what follows: sensitivity, specificity, predictive values, net benefit.

A finding is present (positive) or absent (negative); an image is called positive where its probability is at least the
threshold.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from .intervals import LEVEL, clopper_pearson, effective_number, share_interval, units_of

MOST_NEEDED = 10_000_000
MOST_CONDITION, MOST_STEPS = 1e12, 100
"""Of Newton's method: beyond these there is no finite solution."""


@dataclass(frozen=True)
class _Cut:
    """A threshold chosen on rows of which nothing was learned.

    Attributes:
        threshold: from this probability on an image is called positive.
        units: patients, or images, that it was chosen from: those with the finding for a sensitivity, those without it
            for a specificity.
        reached: (low, high), between which the share on new patients lies with `LEVEL`, as far as so many units tell.
    """

    threshold: float
    units: int
    reached: tuple[float, float]


def least_units(share: float, assured: bool = False) -> int:
    """How many units of a side a share needs: n / (n + 1) is reached on average by the lowest of n, and share^n is the
    chance that the lowest of n misses it (order statistics: "Determination of sample sizes for setting tolerance
    limits", Wilks 1941).

    Args:
        share: the sensitivity or specificity that is wished for, in 0..1.
        assured: with 95 % assurance, in place of on average.
    """
    exact = math.log(1 - LEVEL) / math.log(share) if assured else share / (1 - share)
    return math.ceil(exact - 1e-9)


def threshold_for(
    probs: Tensor,
    present: Tensor,
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
    groups: Sequence[str] | None = None,
    assured: bool = False,
) -> _Cut:
    """The threshold that gives new patients a sensitivity, or a specificity, of at least so much.

    By rank: with K patients that have the finding, drawn like the new one, a threshold below which their images lie to
    a share of at most (1 - s) (K + 1) - 1, summed over patients, has a sensitivity of s on average over such draws
    (conformal prediction with groups: "Distribution-free inference with hierarchical data", Lee, Barber and Willett
    2023; of single images it is a rank). Assured, it has it in 95 % of draws: then a patient counts by the image that
    is hardest for it, and the rank is that of a tolerance limit.

    Args:
        probs: (N,) in 0..1, of rows that the model did not learn from.
        present: (N,) bool.
        sensitivity, specificity: in 0..1, without the ends; one of them.
        groups: N patients, or None.
        assured: in 95 % of draws, in place of on average.

    Raises:
        DataError: too few patients for it.
    """
    share, of_present = (specificity, False) if sensitivity is None else (sensitivity, True)
    assert share is not None
    side = present.bool() if of_present else ~present.bool()
    rows = side.nonzero().flatten().tolist()
    unit, units = units_of(None if groups is None else [groups[row] for row in rows], len(rows))
    least = least_units(share, assured)
    if units < least:
        what, word = ("sensitivity", "with") if of_present else ("specificity", "without")
        raise DataError(
            f"{what} {share:g}: needs {least} patients (or images, where patients are not known) {word} the finding "
            f"to choose a threshold from{' with 95 % assurance' if assured else ''}; there are {units}"
        )
    # as if all sides were the side with the finding: the higher, the better
    scores = probs.double()[side] if of_present else -probs.double()[side]
    weights = 1 / torch.bincount(unit, minlength=units).double()[unit]
    if assured:
        hardest = torch.full((units,), math.inf, dtype=torch.float64).scatter_reduce(0, unit, scores, "amin")
        scores, weights = hardest, torch.ones(units, dtype=torch.float64)
    allowed = _assured_rank(units, share) - 1 if assured else (1 - share) * (units + 1) - 1
    ordered, order = scores.sort()
    below = weights[order].cumsum(0) - weights[order]  # of the rows that lie before each
    before = torch.searchsorted(ordered, ordered, right=False)  # rows of equal score lie on one side
    place = int((below[before] <= allowed + 1e-9).nonzero().max())
    threshold, first = abs(float(ordered[place])), int(before[place])
    if not of_present:  # above the last that is to be called negative: half-way to the next
        threshold = (threshold + (abs(float(ordered[first - 1])) if first else 1.0)) / 2
    return _Cut(threshold, units, _reached(units, float(below[first])))


def _assured_rank(units: int, share: float) -> int:
    """The largest r so that the r-th lowest of `units` has at least `share` above it in 95 % of draws."""
    from scipy.special import betainc

    rank = torch.arange(1, units + 1).double()
    short = torch.from_numpy(betainc(units + 1 - rank.numpy(), rank.numpy(), share))  # P(a draw above < share)
    return int((short <= 1 - LEVEL).sum())


def _reached(units: int, below: float) -> tuple[float, float]:
    """Between which the share lies: above the r-th of n draws lies a share that is Beta(n + 1 - r, r)."""
    from scipy.special import betaincinv

    rank = below + 1
    low, high = (float(betaincinv(units + 1 - rank, rank, tail)) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return low, high


@dataclass(frozen=True)
class ThresholdRates:
    """What a threshold does on test images; each share with the [low, high] of its interval, None where no image tells.

    Attributes:
        sensitivity: of the images with the finding, those called positive.
        specificity: of those without it, those called negative.
        ppv: of those called positive, those that have it; as frequent as it is among the test images.
        npv: of those called negative, those without it.
        counts: true positives, false positives, false negatives, true negatives.
    """

    threshold: float
    sensitivity: float | None
    specificity: float | None
    ppv: float | None
    npv: float | None
    intervals: dict[str, list[float]]
    counts: tuple[int, int, int, int]


def rates_at(threshold: float, probs: Tensor, present: Tensor, groups: Sequence[str] | None = None) -> ThresholdRates:
    """What a threshold does.

    Args:
        threshold: from this probability on an image is called positive.
        probs: (N,).
        present: (N,) bool.
        groups: N patients, or None.
    """
    called, present = probs.double() >= threshold, present.bool()
    shares = {
        "sensitivity": (called, present),
        "specificity": (~called, ~present),
        "ppv": (present, called),
        "npv": (~present, ~called),
    }
    values: dict[str, float | None] = {}
    intervals = {}
    for name, (right, of) in shares.items():
        values[name] = float(right[of].double().mean()) if of.any() else None
        if of.any():
            rows = of.nonzero().flatten().tolist()
            intervals[name] = share_interval(right[of], None if groups is None else [groups[row] for row in rows])
    counts = (
        int((called & present).sum()),
        int((called & ~present).sum()),
        int((~called & present).sum()),
        int((~called & ~present).sum()),
    )
    return ThresholdRates(threshold=threshold, intervals=intervals, counts=counts, **values)


@dataclass(frozen=True)
class PredictiveValues:
    """At a prevalence; each with its interval.

    Attributes:
        ppv: the chance that a patient called positive has the finding.
        npv: the chance that one called negative has none.
    """

    prevalence: float
    ppv: float
    npv: float
    ppv_interval: tuple[float, float]
    npv_interval: tuple[float, float]


def predictive_values(
    detected: float, with_it: float, cleared: float, without_it: float, prevalence: float
) -> PredictiveValues:
    """Positive and negative predictive value where the finding is as frequent as said, by Bayes' rule.

    On the logit scale both are a log likelihood ratio and a constant ("Confidence intervals for predictive values with
    an emphasis to case-control studies", Mercaldo, Lau and Zhou, Statistics in Medicine 26, 2007). Where few images
    stand on a side, or all are right, normal limits of the ratio miss; so its limits are recovered from Jeffreys' of
    sensitivity and specificity ("Construction of confidence limits about effect measures", Zou and Donner, Statistics
    in Medicine 27, 2008): drawn 20,000 times each, in eight cases from 3 and 30 images to 200 and 200, they hold the
    true value in 93.9 to 98.8 %.

    Args:
        detected, with_it: true positives, and all images with the finding; of groups their effective numbers.
        cleared, without_it: true negatives, and all images without it.
        prevalence: in 0..1, without the ends.

    Raises:
        DataError: one of the two sides has no image.
    """
    if with_it <= 0 or without_it <= 0:
        raise DataError("predictive values need images with the finding and images without it")
    odds = prevalence / (1 - prevalence)
    ppv = _share_of_odds(detected / with_it, 1 - cleared / without_it, odds)
    npv = _share_of_odds(cleared / without_it, 1 - detected / with_it, 1 / odds)
    true, false = _jeffreys(detected, with_it), _jeffreys(without_it - cleared, without_it)
    clear, missed = _jeffreys(cleared, without_it), _jeffreys(with_it - detected, with_it)
    return PredictiveValues(
        prevalence,
        ppv,
        npv,
        _limits_of_ratio(detected / with_it, true, 1 - cleared / without_it, false, odds),
        _limits_of_ratio(cleared / without_it, clear, 1 - detected / with_it, missed, 1 / odds),
    )


def predictive_values_at(
    threshold: float, probs: Tensor, present: Tensor, prevalence: float, groups: Sequence[str] | None = None
) -> PredictiveValues:
    """The predictive values of a threshold; of groups from as many images as tell as much of each share.

    Args:
        threshold, probs, present, groups: as for `rates_at`.
        prevalence: in 0..1, without the ends.

    Raises:
        DataError: as `predictive_values`.
    """
    right = (probs.double() >= threshold) == present.bool()

    def effective(side: Tensor) -> tuple[float, float]:
        """How many are right, and of how many."""
        own = None if groups is None else [groups[row] for row in side.nonzero().flatten().tolist()]
        size = effective_number(right[side], own) if side.any() else 0.0
        return (float(right[side].double().mean()) * size if size else 0.0), size

    return predictive_values(*effective(present.bool()), *effective(~present.bool()), prevalence)


def _share_of_odds(right: float, wrong: float, odds: float) -> float:
    """What has odds of right / wrong x odds; of 0 / 0 it is 1, nobody being called wrongly."""
    return right * odds / (right * odds + wrong) if right or wrong else 1.0


def _jeffreys(count: float, of: float) -> tuple[float, float]:
    """Limits of a share: quantiles of Beta(x + 1/2, n - x + 1/2), 0 and 1 where none or all are in it."""
    from scipy.special import betaincinv

    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = (float(betaincinv(count + 0.5, of - count + 0.5, tail)) for tail in tails)
    return 0.0 if count <= 0 else low, 1.0 if count >= of else high


def _limits_of_ratio(
    right: float, of_right: tuple[float, float], wrong: float, of_wrong: tuple[float, float], odds: float
) -> tuple[float, float]:
    """[low, high] of what has odds of right / wrong x odds, from the limits of both."""
    low = _share_of_odds(of_right[0], of_wrong[1], odds)
    high = _share_of_odds(of_right[1], of_wrong[0], odds)
    if right > 0 and wrong > 0:
        middle = math.log(right / wrong * odds)
        down = math.hypot(math.log(right / of_right[0]), math.log(of_wrong[1] / wrong))
        up = math.hypot(math.log(of_right[1] / right), math.log(wrong / of_wrong[0]))
        low, high = 1 / (1 + math.exp(down - middle)), 1 / (1 + math.exp(-up - middle))
    return low, high


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit per patient over thresholds ("Decision curve analysis", Vickers and Elkin, Medical Decision Making
    26, 2006); that of treating nobody is 0.

    Attributes:
        thresholds: (T,), probabilities from which on one would act.
        model: (T,) of acting on those that the model calls positive.
        everyone: (T,) of acting on all.
    """

    thresholds: Tensor
    model: Tensor
    everyone: Tensor


def decision_curve(probs: Tensor, present: Tensor, thresholds: Tensor) -> DecisionCurve:
    """TP / n - FP / n x t / (1 - t) at each threshold t; probabilities must be calibrated to mean anything.

    Args:
        probs: (N,).
        present: (N,) bool.
        thresholds: (T,) in 0..1, without 1.
    """
    probs, present, at = probs.double(), present.double(), thresholds.double()
    called = (probs[None] >= at[:, None]).double()  # (T, N)
    odds, count = at / (1 - at), len(probs)
    model = (called @ present - odds * (called @ (1 - present))) / count
    share = present.mean()
    return DecisionCurve(thresholds, model, share - (1 - share) * odds)


@dataclass(frozen=True)
class Recalibration:
    """How predicted probabilities and frequencies agree.

    Attributes:
        brier: mean squared difference of probability and outcome.
        slope: of a logistic regression of the outcome on the log-odds; 1 is right, below 1 too extreme.
        intercept: its intercept with the slope held at 1: above 0 the finding is more frequent than predicted.
        slope_interval, intercept_interval: with standard errors that respect groups.
    """

    brier: float
    slope: float | None
    intercept: float | None
    slope_interval: tuple[float, float] | None = None
    intercept_interval: tuple[float, float] | None = None


def recalibration(probs: Tensor, present: Tensor, groups: Sequence[str] | None = None) -> Recalibration:
    """Brier score ("Verification of forecasts expressed in terms of probability", Brier 1950), calibration slope and
    calibration in the large ("Two further applications of a model for binary regression", Cox 1958).

    Slope and intercept are None where all outcomes are alike, or the log-odds separate them.

    Args:
        probs: (N,).
        present: (N,) bool.
        groups: N patients, or None.
    """
    probs, outcome = probs.double(), present.double()
    brier = float((probs - outcome).square().mean())
    log_odds = torch.logit(probs.clamp(1e-12, 1 - 1e-12))
    unit, units = units_of(groups, len(probs))
    if not 0 < outcome.sum() < len(outcome) or units < 2:
        return Recalibration(brier, None, None)
    ones = torch.ones_like(log_odds)
    steep = _logistic(torch.stack((ones, log_odds), 1), outcome, torch.zeros_like(log_odds), unit, units)
    level = _logistic(ones[:, None], outcome, log_odds, unit, units)
    slope, intercept = steep and steep[1], level and level[0]
    return Recalibration(
        brier,
        slope and slope[0],
        intercept and intercept[0],
        slope and slope[1],
        intercept and intercept[1],
    )


def _logistic(design: Tensor, outcome: Tensor, offset: Tensor, unit: Tensor, units: int):
    """Coefficients of a logistic regression by Newton's method, each with an interval from clustered standard errors
    (a sandwich over units, with t on units - 1 degrees); None where there is no finite solution."""
    from scipy.special import stdtrit

    coefficients = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(MOST_STEPS):
        probs = torch.sigmoid(design @ coefficients + offset)
        weight = probs * (1 - probs)
        information = design.T @ (weight[:, None] * design)
        if not torch.linalg.cond(information) < MOST_CONDITION:
            return None
        step = torch.linalg.solve(information, design.T @ (outcome - probs))
        # From far, Newton's whole step may lead away.
        coefficients = coefficients + step / max(1.0, float(step.abs().max()))
        if step.abs().max() < 1e-10:
            break
    else:
        return None
    scores = torch.zeros(units, design.shape[1], dtype=torch.float64)
    scores.index_add_(0, unit, design * (outcome - probs)[:, None])
    inverse = torch.linalg.inv(information)
    errors = (inverse @ (scores.T @ scores) @ inverse * units / (units - 1)).diagonal().sqrt()
    reach = float(stdtrit(units - 1, (1 + LEVEL) / 2))
    return [
        (float(value), (float(value - reach * error), float(value + reach * error)))
        for value, error in zip(coefficients, errors)
    ]


def units_needed(share: float, width: float) -> int:
    """How many images, or patients of one image, of a side give the exact interval of a share a width of at most so
    much.

    Args:
        share: that is expected, in 0..1.
        width: from low to high, above 0 and below 1.
    """

    def narrowness(count: int) -> float:
        low, high = clopper_pearson(share * count, count)
        return float(low - high)

    return 1 + bisect_left(range(1, MOST_NEEDED), -width, key=narrowness)
