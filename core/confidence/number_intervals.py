"""Intervals around predicted numbers that hold the true ones as often as asked (split conformal prediction).

"Distribution-Free Predictive Inference for Regression" (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman 2018, arXiv
1604.04173): an interval reaches as far to either side as the ceil((n + 1)(1 - alpha))-th smallest absolute residual of
n calibration rows, which trained and chose nothing. Where a scale of the error is predicted for each row, residuals are
divided by it, and the interval is as much wider where the scale is larger (their locally weighted intervals).

Images of one place, or of one patient, are no independent observations: where rows belong to groups each group counts
as one, and the coverage is that of an image of a further group ("Distribution-Free Inference with Hierarchical Data",
Lee, Barber and Willett 2023, arXiv 2306.06342).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..metrics.intervals import units_of
from .conformal import check_coverage, coverage_range, fewest_rows, held_share, threshold


@dataclass(frozen=True)
class NumberIntervals:
    """How far intervals reach, made from calibration rows.

    Attributes:
        coverage: what is asked for.
        reach: to either side, in the unit of the numbers, or in scales; infinite where there are too few rows.
        rows: how many rows it is made from.
        groups: how many groups these are of; None where each row stands alone.
        scaled: whether it is in scales.
    """

    coverage: float
    reach: float
    rows: int
    groups: int | None = None
    scaled: bool = False

    @classmethod
    def of_rows(
        cls,
        predicted: Tensor,
        true: Tensor,
        coverage: float = 0.9,
        groups: Sequence[str | None] | None = None,
        scale: Tensor | None = None,
    ) -> NumberIntervals:
        """From rows (n,) that trained and chose nothing.

        Args:
            coverage: 1 - alpha, between 0 and 1.
            groups: n keys of rows that belong together; a row without a key stands alone.
            scale: (n,) how large an error is to be expected of each row, above 0.

        Raises:
            ConfigError: no such coverage. DataError: sizes disagree, or a scale that is not above 0.
        """
        check_coverage(coverage)
        unit, units = units_of(groups, len(true))
        scores = _residuals(predicted, true, scale)
        grouped = units < len(scores)
        reach = threshold(scores, coverage, unit if grouped else None)
        return cls(coverage, reach, len(scores), units if grouped else None, scale is not None)

    def half_widths(self, count: int, scale: Tensor | None = None) -> Tensor:
        """(N,) float64, how far the interval of each of `count` rows reaches to either side; `scale` as `of_rows`
        takes it."""
        if self.scaled != (scale is not None):
            raise DataError("intervals need a scale for each row exactly where they were calibrated with one")
        ones = torch.ones(count, dtype=torch.float64) if scale is None else torch.as_tensor(scale).double()
        return self.reach * ones

    @property
    def unbounded(self) -> bool:
        """Whether there are too few rows, or groups, for an interval that promises the coverage."""
        return math.isinf(self.reach)

    def scores(
        self, predicted: Tensor, true: Tensor, groups: Sequence[str | None] | None = None, scale: Tensor | None = None
    ) -> dict[str, Any]:
        """ "coverage" measured on rows (N,), the mean over groups where there are any, with its 95 % "interval";
        "mean_width"; what was "asked" and how many "rows" it was calibrated on."""
        held = _residuals(predicted, true, scale) <= self.reach
        width = None if self.unbounded else float(2 * self.half_widths(len(held), scale).mean())
        measured = held_share(held, units_of(groups, len(held))[0])
        return {"asked": self.coverage, "rows": self.rows, **measured, "mean_width": width}

    @property
    def note(self) -> str:
        """What a user must know of them."""
        of = (
            f"{self.rows} image{'s' * (self.rows != 1)}"
            if self.groups is None
            else f"images of {self.groups} groups, each counted once"
        )
        units = self.rows if self.groups is None else self.groups
        if self.unbounded:
            return (
                f"No {self.coverage:.0%} intervals: they are calibrated on val, which has {of}; at least "
                f"{fewest_rows(self.coverage)} are needed. Give more data, or ask for a lower coverage."
            )
        low, high = coverage_range(units, self.coverage)
        return (
            f"{self.coverage:.0%} intervals are calibrated on {of}: they then hold the true number of {low:.0%} to "
            f"{high:.0%} of further images (in 19 of 20 calibrations)."
        )


def _residuals(predicted: Tensor, true: Tensor, scale: Tensor | None) -> Tensor:
    """(n,) float64 absolute errors, divided by the scales."""
    predicted, true = (torch.as_tensor(each, dtype=torch.float64).cpu() for each in (predicted, true))
    if predicted.shape != true.shape or predicted.ndim != 1:
        raise DataError(f"predicted and true numbers must be as many: {tuple(predicted.shape)}, {tuple(true.shape)}")
    errors = (predicted - true).abs()
    if scale is None:
        return errors
    scale = torch.as_tensor(scale, dtype=torch.float64).cpu()
    if scale.shape != true.shape or not bool((scale > 0).all()):
        raise DataError("an interval's scale must be a number above 0 for each row")
    return errors / scale
