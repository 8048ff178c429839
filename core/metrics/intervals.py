"""Intervals in closed form that follow the smallest class and the number of groups, and the tests that they invert.

Images of one group (a patient, a video) are no independent observations. A share then counts as one of as many images
as would be equally certain if they were independent ("Confidence intervals for proportions with small expected number
of positive counts estimated from survey data", Korn and Graubard, Survey Methodology 24, 1998).

A mean over classes has the interval that those of its classes give by the method of variance estimates recovery, MOVER
("Construction of confidence limits about effect measures: a general approach", Zou and Donner, Statistics in Medicine
27, 2008, doi 10.1002/sim.3095): a class with three images, all right, adds what three images leave open.

What is computed here takes arrays and broadcasts; a last axis is that of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import DataError

LEVEL = 0.95
SIGNIFICANT = 0.05
"""p values below it are called more than chance."""
SMALLEST_P = 1e-12
"""Down to which the level is sought at which an interval reaches 0."""
STEPS, LEVEL_STEPS = 30, 30
"""Bisections: limits are exact to 1e-9, as is a p value of 1e-3."""
Array: TypeAlias = NDArray[np.float64]
Limits: TypeAlias = tuple[Array, Array]
Together: TypeAlias = Callable[[Array], Any]


def normal_quantile(level: float = LEVEL) -> float:
    """How many standard errors an interval reaches to either side."""
    from scipy.special import ndtri

    return float(-ndtri((1 - level) / 2))


def normal_level(quantile: float) -> float:
    """The level whose `normal_quantile` this is."""
    from scipy.special import ndtr

    return float(1 - 2 * ndtr(-quantile))


def t_quantile(freedom: ArrayLike, level: float = LEVEL) -> Array:
    """The same where the standard error is estimated with that many degrees of freedom."""
    from scipy.special import stdtrit

    return -stdtrit(np.asarray(freedom, dtype=np.float64), (1 - level) / 2)


def clopper_pearson(hits: ArrayLike, total: ArrayLike, level: float = LEVEL) -> Limits:
    """Exact limits of a share ("The use of confidence or fiducial limits illustrated in the case of the binomial",
    Clopper and Pearson 1934).

    Args:
        hits, total: arrays; effective numbers need not be whole.
        level: how often such intervals hold the true share, at least.
    """
    from scipy.special import betaincinv

    hits, total = np.broadcast_arrays(np.asarray(hits, dtype=np.float64), np.asarray(total, dtype=np.float64))
    tail, misses = (1 - level) / 2, np.maximum(total - hits, 0)
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1e-9), misses + 1, tail), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 1, np.maximum(misses, 1e-9), 1 - tail), 1.0)
    return low, high


def wilson(share: ArrayLike, size: ArrayLike, quantile: ArrayLike) -> Limits:
    """Wilson's score limits of a share of `size` images, which need not be whole."""
    share, spread = np.asarray(share, dtype=np.float64), np.square(quantile) / np.asarray(size, dtype=np.float64)
    centre, reach = share + spread / 2, np.sqrt(spread * (share * (1 - share) + spread / 4))
    return np.maximum((centre - reach) / (1 + spread), 0), np.minimum((centre + reach) / (1 + spread), 1)


def tango(gained: ArrayLike, lost: ArrayLike, total: ArrayLike, quantile: ArrayLike) -> Limits:
    """Score limits of the difference of two shares of the same images ("Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design", Tango, Statistics in Medicine 17, 1998).

    A difference d is held where |gained - lost - n d| is at most `quantile` standard errors as they would be if it were
    the true one; at d = 0 that is McNemar's test.

    Args:
        gained, lost: images that only the second, or only the first, has right.
        total: all images.
        quantile: of the normal distribution, or of Student's.
    """
    arrays = (np.asarray(each, dtype=np.float64) for each in (gained, lost, total, quantile))
    gained, lost, total, quantile = np.broadcast_arrays(*arrays)

    def held(difference: Array) -> Array:
        distance, variance = _from_difference(gained, lost, total, difference)
        return np.square(distance) <= quantile**2 * variance

    inside = np.stack([(gained - lost) / total] * 2)  # (2, ...), of both limits
    outside = np.stack([np.full_like(total, -1), np.ones_like(total)])
    ends, at_ends = outside, held(outside)
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        holds = held(middle)
        inside, outside = np.where(holds, middle, inside), np.where(holds, outside, middle)
    low, high = np.where(at_ends, ends, inside)
    return low, high


def _from_difference(gained: ArrayLike, lost: ArrayLike, total: ArrayLike, difference: ArrayLike) -> Limits:
    """How far gained - lost is from n times a difference, and its variance if that were the true one (Tango)."""
    gained, lost, total, difference = (np.asarray(each, dtype=np.float64) for each in (gained, lost, total, difference))
    linear = (2 * total - gained + lost) * difference - gained - lost
    root = np.sqrt(np.maximum(linear**2 + 8 * total * lost * difference * (1 - difference), 0))
    loses = (root - linear) / (4 * total)  # the likeliest share that only the first has right
    variance = total * (2 * loses + difference * (1 - difference))
    return gained - lost - total * difference, np.maximum(variance, 0)


def mover(values: ArrayLike, limits: Limits, together: Together | None = None) -> tuple[Any, Any]:
    """The interval of a mean of K estimates.

    Args:
        values: (..., K).
        limits: low and high of each, (..., K).
        together: for estimates that depend on one another, (K,) errors -> the square of their sum's; None: they are
            independent.
    """
    values, (low, high) = np.asarray(values, dtype=np.float64), limits
    together = together or (lambda errors: np.square(errors).sum(axis=-1))
    below, above = (np.sqrt(together(errors)) / values.shape[-1] for errors in (values - low, high - values))
    return values.mean(axis=-1) - below, values.mean(axis=-1) + above


def p_of_intervals(interval: Callable[[float], tuple[float, float] | None], value: float = 0.0) -> float:
    """The p value that agrees with an interval at every level: 1 minus the level at which it just reaches a value.

    Args:
        interval: level -> (low, high), or None, which leaves out nothing.
        value: of the hypothesis.
    """

    def left_out(p: float) -> bool:
        bounds = interval(1 - p)
        return bounds is not None and not bounds[0] <= value <= bounds[1]

    low, high = (SMALLEST_P, SIGNIFICANT) if left_out(SIGNIFICANT) else (SIGNIFICANT, 1.0)
    for _ in range(LEVEL_STEPS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if left_out(middle) else (middle, high)
    return low


@dataclass(frozen=True, eq=False)
class Difference:
    """What the second of two models gains over the first on the same images.

    Attributes:
        value: of the scores of all images.
        interval: level -> (low, high), or None where the images tell no spread: those of a single group.
        test: computes `p_value`.
        gained, lost: images that only the second, or only the first, has right; 0 where nothing is counted.
    """

    value: float
    interval: Callable[..., tuple[float, float] | None]
    test: Callable[[], float]
    gained: int = 0
    lost: int = 0

    @cached_property
    def p_value(self) -> float:
        """Two-sided; below 1 minus a level exactly where the interval of that level leaves out 0."""
        return self.test()

    @property
    def bounds(self) -> list[float] | None:
        """The interval of 95 %."""
        return None if (interval := self.interval(LEVEL)) is None else list(interval)


def units_of(groups: Sequence[str] | Tensor | None, count: int) -> tuple[Tensor, int]:
    """Which unit each image belongs to, (N,) int64, and the number of units; an image without a group is its own."""
    if groups is None:
        return torch.arange(count), count
    if isinstance(groups, Tensor):
        values, unit = groups.cpu().unique(return_inverse=True)
        return unit, len(values)
    places: dict[object, int] = {}
    unit = [places.setdefault(group or position, len(places)) for position, group in enumerate(groups)]
    return torch.tensor(unit, dtype=torch.int64), len(places)


def exact_interval(correct: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """`clopper_pearson` of an accuracy: whatever the true one is, so many of these intervals hold it, or more.

    Args:
        correct: images that are right.
        total: images in all.
        level: how often such intervals hold the true accuracy, at least.

    Returns:
        (low, high) in 0..1.

    Raises:
        DataError: no images, or more right than there are.
    """
    if not 0 <= correct <= total or total == 0:
        raise DataError(f"{correct} of {total} images right: that gives no accuracy")
    low, high = clopper_pearson(correct, total, level)
    return float(low), float(high)


def share_interval(values: Tensor, groups: Sequence[str] | Tensor | None = None, level: float = LEVEL) -> list[float]:
    """[low, high] of a share, or of a mean of shares, by `clopper_pearson` of the images, or of Korn and Graubard's
    effective number of them.

    Args:
        values: (N,) bool, or in 0..1.
        groups: N keys of images that belong together, or None.
        level: how often such intervals hold the true share.
    """
    low, high = ClusterSums.of(values, torch.zeros(len(values), dtype=torch.int64), 1, groups).limits(level)
    return [float(low[0]), float(high[0])]


def effective_number(right: Tensor, groups: Sequence[str] | Tensor | None = None) -> float:
    """So many independent images tell as much of a share, by Korn and Graubard; arguments as for `share_interval`."""
    clusters = ClusterSums.of(right, torch.zeros(len(right), dtype=torch.int64), 1, groups)
    return float(clusters.total[0] if clusters.independent else clusters.effective(LEVEL)[0])


def class_intervals(
    right: Tensor, of: Tensor, classes: int, groups: Sequence[str] | Tensor | None = None, level: float = LEVEL
) -> list[list[float] | None]:
    """[low, high] of the share that is right in each class, by `clopper_pearson`; None of a class without rows.

    Args:
        right: (N,) bool.
        of: (N,) class of each row: the true one for recall, the answer for precision.
        classes: C.
        groups: N keys of images that belong together, or None.
    """
    clusters = ClusterSums.of(right, of, classes, groups)
    low, high = clusters.limits(level)
    bounds = zip(low.tolist(), high.tolist(), clusters.total.tolist())
    return [[first, last] if rows else None for first, last, rows in bounds]


def balanced_interval(
    right: Tensor, labels: Tensor, groups: Sequence[str] | Tensor | None = None, level: float = LEVEL
) -> list[float]:
    """[low, high] of the balanced accuracy: `mover` over the limits of each class that has images.

    Args:
        right: (N,) bool.
        labels: (N,) class indices.
        groups: N keys of images that belong together, or None.
    """
    present = labels.unique(return_inverse=True)[1]
    clusters = ClusterSums.of(right, present, int(present.max()) + 1, groups)
    low, high = mover(clusters.share, clusters.limits(level), clusters.together)
    return [max(0.0, float(low)), min(1.0, float(high))]


def paired_shares(
    before: Tensor,
    after: Tensor,
    groups: Sequence[str] | Tensor | None = None,
    labels: Tensor | None = None,
) -> Difference:
    """What the second of two models gains in accuracy, or in balanced accuracy, by Tango's interval and the test that
    it inverts, McNemar's ("Note on the sampling error of the difference between correlated proportions or percentages",
    McNemar 1947).

    Where images belong together, the counts are divided by the design effect, the factor by which the variance of the
    difference exceeds that of as many independent images ("A simple method for the analysis of clustered binary data",
    Rao and Scott, Biometrics 48, 1992; the variance is that of Obuchowski's test for clustered matched pairs, 1998),
    and Student's t takes the place of the normal distribution. Several fits are rows of the same images.

    Args:
        before, after: (N,) bool, or (S, N) of S fits: which images each model has right.
        groups: N keys of images that belong together, or None.
        labels: (N,) class indices, for the balanced accuracy: `mover` over the intervals of the classes.

    Raises:
        DataError: sizes disagree.
    """
    before, after = (torch.as_tensor(each).bool().cpu() for each in (before, after))
    if before.shape != after.shape:
        raise DataError(f"a paired test needs the same images: {tuple(before.shape)} and {tuple(after.shape)}")
    gains, fits, images = after.double() - before.double(), before[..., 0].numel(), before.shape[-1]
    if fits > 1:
        groups = units_of(groups, images)[0].repeat(fits)
    of = torch.zeros(images, dtype=torch.int64) if labels is None else labels.unique(return_inverse=True)[1]
    clusters = ClusterSums.of(gains.flatten(), of.repeat(fits), int(of.max()) + 1, groups)
    gained, lost = (of.repeat(fits)[(gains.flatten() == sign)].bincount(minlength=clusters.classes) for sign in (1, -1))
    counts = gained.double().numpy() / clusters.design, lost.double().numpy() / clusters.design
    value, size, independent = float(clusters.share.mean()), clusters.total / clusters.design, clusters.independent

    freedom = np.maximum(clusters.units - 1, 1)
    lone = not independent and clusters.units.max() < 2

    def interval(level: float = LEVEL) -> tuple[float, float] | None:
        if lone:
            return None
        quantile = normal_quantile(level) if independent else t_quantile(freedom, level)
        low, high = mover(clusters.share, tango(*counts, size, quantile), clusters.together)
        return max(-1.0, float(low)), min(1.0, float(high))

    def test() -> float:
        if lone:
            return 1.0
        if clusters.classes > 1:
            return p_of_intervals(interval)
        return _score_test(counts[0][0], counts[1][0], None if independent else freedom[0])

    return Difference(value, interval, test, int(gained.sum()), int(lost.sum()))


def p_of_loss(before: Tensor, after: Tensor, margin: float, groups: Sequence[str] | Tensor | None = None) -> float:
    """One-sided p value of a loss of at most `margin`, by the test that the interval of `paired_shares` inverts.

    Args:
        before, after: (N,) bool, which images are right.
        margin: above 0, a share of the images.
        groups: N keys of images that belong together, or None.
    """
    gains = after.double() - before.double()
    clusters = ClusterSums.of(gains, torch.zeros(len(gains), dtype=torch.int64), 1, groups)
    if not clusters.independent and clusters.units[0] < 2:
        return 1.0
    gained, lost, total = (each / clusters.design[0] for each in (*_gained_and_lost(gains), clusters.total[0]))
    distance, variance = _from_difference(gained, lost, total, -margin)
    freedom = None if clusters.independent else clusters.units[0] - 1
    return float(_below(distance / np.sqrt(variance), freedom))


def _gained_and_lost(gains: Tensor) -> tuple[int, int]:
    return int((gains > 0).sum()), int((gains < 0).sum())


def _score_test(gained: float, lost: float, freedom: float | None) -> float:
    """Two-sided p value of McNemar's test, of the normal distribution or of Student's."""
    return float(2 * _below(-abs(gained - lost) / np.sqrt(gained + lost), freedom)) if gained + lost else 1.0


def _below(statistic: float, freedom: float | None) -> float:
    """Chance of less, by the normal distribution or by Student's."""
    from scipy.special import ndtr, stdtr

    return ndtr(statistic) if freedom is None else stdtr(freedom, statistic)


@dataclass(frozen=True, eq=False)
class ClusterSums:
    """Values of rows, those of one class and one unit (an image, a patient) added up to a cell.

    Attributes:
        unit, label: (M,) unit and class of each cell.
        sums, sizes: (M,) of its values, and rows.
        squares: (C,) sum of the squared values of each class.
        classes: C.
        binary: whether values are 0 and 1.
        independent: whether each unit is one row.
    """

    unit: NDArray[np.int64]
    label: NDArray[np.int64]
    sums: Array
    sizes: Array
    squares: Array
    classes: int
    binary: bool
    independent: bool

    @classmethod
    def of(
        cls, values: Tensor, labels: Tensor, classes: int, groups: Sequence[str] | Tensor | None = None
    ) -> ClusterSums:
        """Of values (N,), labels (N,) and keys (N,)."""
        unit, units = units_of(groups, len(values))
        value, label = values.double().cpu().numpy(), labels.cpu().numpy()
        cells, cell = np.unique(unit.numpy() * classes + label, return_inverse=True)
        cell = cell.reshape(-1)
        sums, sizes = np.bincount(cell, value, len(cells)), np.bincount(cell, minlength=len(cells)).astype(np.float64)
        squares = np.bincount(label, value**2, classes)
        binary = bool(np.isin(value, (0.0, 1.0)).all())
        return cls(cells // classes, cells % classes, sums, sizes, squares, classes, binary, units == len(value))

    @cached_property
    def total(self) -> Array:
        """(C,) rows of each class."""
        return self._per_class(self.sizes)

    @cached_property
    def units(self) -> Array:
        """(C,) units of each class."""
        return self._per_class(np.ones_like(self.sizes))

    @cached_property
    def share(self) -> Array:
        """(C,) mean of each class; NaN without rows."""
        with np.errstate(invalid="ignore"):
            return self._per_class(self.sums) / self.total

    def limits(self, level: float = LEVEL) -> Limits:
        """(C,) low and high of each class's mean: exact, or from the effective number."""
        if self.independent and self.binary:
            return clopper_pearson(self._per_class(self.sums), self.total, level)
        size = self.effective(level)
        return clopper_pearson(self.share * size, size, level)

    def together(self, errors: Array) -> Array:
        """(C,) errors of the classes -> the square of that of their sum: classes of one unit err together. A class of
        which no unit differs would err in units as they are, in the direction that makes the sum larger."""
        if self.independent:
            return np.square(errors).sum(axis=-1)
        residuals = self._residuals(self.share)
        alike = (self._per_class(residuals**2) == 0)[self.label]
        residuals = np.where(alike, self.sizes, residuals)
        of_cell = (errors / np.sqrt(self._per_class(residuals**2)))[self.label] * residuals
        differing, constant = (np.bincount(self.unit, np.where(which, of_cell, 0)) for which in (~alike, alike))
        return max(np.square(differing + constant).sum(), np.square(differing - constant).sum())

    @cached_property
    def design(self) -> Array:
        """(C,) the design effect of each class, 1 or more; rows per unit where all rows are alike."""
        if self.independent:
            return np.ones(self.classes)
        with np.errstate(divide="ignore", invalid="ignore"):
            alone = self.squares / self.total - self.share**2  # (C,)
            effect = self._between(self._residuals(self.share)) / (alone * self.total)
            return np.where((alone > 1e-12) & (self.units > 1), np.maximum(effect, 1), self.total / self.units)

    def effective(self, level: float) -> Array:
        """(C,) images of equal certainty, Korn and Graubard's. The variance is the larger of two, that of the units and
        that with half a unit more of which half is right: few units that happen to be alike do not tell how far others
        differ. Where all is right, or wrong, or no unit differs, it is the number of units."""
        total, units, share = self.total, self.units, self.share
        with np.errstate(divide="ignore", invalid="ignore"):
            more = total / units / 2
            moved = (share * total + more / 2) / (total + more)
            own = self._between(self._residuals(share))
            wider = self._between(self._residuals(moved), np.square(more * (0.5 - moved)))
            size = np.minimum(
                share * (1 - share) * total**2 / own,
                moved * (1 - moved) * (total + more) ** 2 / wider * units / (units + 0.5),
            )
            size = np.minimum(size, total) if self.binary else size
            size = size * np.square(t_quantile(total - 1, level) / t_quantile(np.maximum(units - 1, 1), level))
            size = np.where(own > 1e-12 * total, size, units)
        return np.where(units < 2, 1.0, size)

    def _between(self, residuals: Array, further: ArrayLike = 0.0) -> Array:
        """(C,) the variance of a sum over units."""
        return self.units / (self.units - 1) * (self._per_class(residuals**2) + further)

    def _residuals(self, share: Array) -> Array:
        return self.sums - share[self.label] * self.sizes

    def _per_class(self, values: Array) -> Array:
        return np.bincount(self.label, values, self.classes).astype(np.float64)
