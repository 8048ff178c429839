"""How far predicted numbers are from true ones: MAE, RMSE and R2, their intervals, and paired differences.

All follow from sums over units (places, patients), which may be added up window by window: a raster of any size needs
one row of sums for each place. Intervals draw units with replacement ("Bootstrap-based improvements for inference with
clustered errors", Cameron, Gelbach and Miller 2008); of few units percentiles are too narrow, so that they are taken
further out, by Student's t ("What Teachers Should Know About the Bootstrap", Hesterberg 2014, arXiv 1411.5279, the
expanded percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from .intervals import LEVEL, units_of
from .significance import drawn_weights, expanded, percentiles

SAMPLES = 4000
COUNT, ABSOLUTE, SQUARED, ABOVE, SPREAD, ERROR = range(6)
"""Columns of the sums."""


@dataclass(frozen=True, eq=False)
class NumberSums:
    """Sums of predicted and true numbers over the images, or pixels, of each unit.

    Attributes:
        sums: (U, 6) float64, of each unit: how many; |error|; error squared; true - centre; that squared; error.
        centre: the mean of the training numbers, which R2 against that mean is about.
    """

    sums: Tensor
    centre: float

    @classmethod
    def of(
        cls, predicted: Tensor, true: Tensor, centre: float, groups: Sequence[str | None] | None = None
    ) -> NumberSums:
        """Of numbers (N,); each image is a unit of its own where it has no group.

        Raises:
            DataError: there are no numbers, as many as others, or one that is not finite.
        """
        predicted, true = (torch.as_tensor(each, dtype=torch.float64).cpu().flatten() for each in (predicted, true))
        if predicted.shape != true.shape:
            raise DataError(f"{len(predicted)} predicted numbers for {len(true)} true ones; give as many")
        if not len(true):
            raise DataError("no numbers to compare; give images with a number")
        if not bool((predicted.isfinite() & true.isfinite()).all()):
            raise DataError("a predicted or true number is not finite; leave such images out")
        unit, units = units_of(groups, len(true))
        error, above = predicted - true, true - centre
        columns = torch.stack([torch.ones_like(error), error.abs(), error**2, above, above**2, error], dim=1)  # (N, 6)
        return cls(torch.zeros(units, len(columns.T), dtype=torch.float64).index_add_(0, unit, columns), centre)

    @property
    def units(self) -> int:
        return len(self.sums)

    def metrics(self) -> dict[str, float | None]:
        """ "mae" and "rmse" in the unit of the numbers; "bias", the mean error; "r2", the share of the variance of the
        compared numbers that is explained, and "r2_of_train_mean", 1 minus the squared error divided by that of the
        training mean. None where the numbers do not differ."""
        return {name: float(value) if value.isfinite() else None for name, value in _metrics(self.sums.sum(0)).items()}

    def intervals(self, level: float = LEVEL, seed: int = 0) -> dict[str, list[float]]:
        """Metric -> [low, high]; of a single unit there are none, and none of R2 of fewer than four."""
        if self.units < 2:
            return {}
        draws, value = _metrics(_drawn(self.sums, seed)), self.metrics()
        bounds = {name: _bounds(of, self.units, level) for name, of in draws.items()}
        return {name: list(each) for name, each in bounds.items() if each is not None and value[name] is not None}

    def gain(self, other: NumberSums, metric: str = "rmse", level: float = LEVEL, seed: int = 0) -> NumberGain:
        """How much better a metric is here than of another prediction of the same numbers.

        Args:
            metric: "rmse", "mae", or one of which more is better: "r2", "r2_of_train_mean".

        Raises:
            DataError: those are other numbers.
        """
        about = [COUNT, ABOVE, SPREAD]
        if self.sums.shape != other.sums.shape or not torch.allclose(self.sums[:, about], other.sums[:, about]):
            raise DataError("a paired difference needs predictions of the same numbers, in the same order")
        mine, others = (_metrics(each.sums.sum(dim=0))[metric] for each in (self, other))
        sign, interval = 1.0 if metric.startswith("r2") else -1.0, None
        if self.units > 1:
            drawn, of_other = (_metrics(_drawn(each.sums, seed))[metric] for each in (self, other))  # the same draws
            bounds = _bounds(sign * (drawn - of_other), self.units, level)
            interval = None if bounds is None else list(bounds)
        return NumberGain(metric, sign * float(mine - others) + 0.0, interval, self.units)


@dataclass(frozen=True)
class NumberGain:
    """By how much a method is better than another, over the same units.

    Attributes:
        metric: that is compared.
        value: the difference of the metric; positive where the method is better.
        interval: of the difference, [low, high]; None of a single unit.
        units: places, patients or images that were drawn.
    """

    metric: str
    value: float
    interval: list[float] | None
    units: int

    @property
    def better(self) -> bool:
        """Whether the method is better by more than chance."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def worse(self) -> bool:
        """Whether it is worse by more than chance."""
        return self.interval is not None and self.interval[1] < 0


def _metrics(sums: Tensor) -> dict[str, Tensor]:
    """Of sums (..., 6), each (...)."""
    count, absolute, squared, above, spread, error = sums.unbind(dim=-1)
    variance = spread - above**2 / count
    variance = torch.where(variance <= 1e-12 * spread, torch.nan, variance)
    return {
        "mae": absolute / count,
        "rmse": (squared / count).sqrt(),
        "bias": error / count,
        "r2": 1 - squared / variance,
        "r2_of_train_mean": 1 - squared / torch.where(spread > 0, spread, torch.nan),
    }


def _drawn(sums: Tensor, seed: int) -> Tensor:
    """(S, 6) sums over units drawn with replacement."""
    return torch.cat([weight.double() @ sums for weight in drawn_weights(len(sums), None, SAMPLES, seed)])


def _bounds(draws: Tensor, units: int, level: float) -> tuple[float, float] | None:
    """Low and high; None where a metric is undefined in more draws than an interval may miss (R2 of two places, one of
    which is drawn twice)."""
    if float(draws.isfinite().double().mean()) < level:
        return None
    return percentiles(draws + 0.0, expanded(units, level))  # no -0
