"""Answers left open, so that the others are wrong seldom enough.

"Selective Classification for Deep Neural Networks" (Geifman and El-Yaniv 2017, arXiv 1705.08500), with thresholds at
fixed shares of the calibration rows, each tested at its part of the risk ("Learn then Test", Angelopoulos et al. 2021,
arXiv 2110.01052): the error above a threshold is bounded (Clopper and Pearson 1934), and all bounds together hold with
probability 1 - `RISK` at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts.judgement import Record
from ..errors import ConfigError
from ..metrics.intervals import share_interval

RISK = 0.1
"""How often the bound may fail, over draws of the calibration rows."""
SHARES = tuple(share / 10 for share in range(10, 0, -1))
"""Shares of the rows that are answered, of which the largest is taken whose error is bounded."""


@dataclass(frozen=True)
class Abstention:
    """From which confidence on an answer is given.

    Attributes:
        max_error: what the error of the answers given is kept under.
        least: confidence an answer needs, in 0..1; infinite where no answer can be given.
        rows: calibration rows.
    """

    max_error: float
    least: float
    rows: int

    @property
    def note(self) -> str:
        """Why nothing is answered; "" where something is."""
        if math.isfinite(self.least):
            return ""
        needed = fewest_rows(self.max_error)
        if self.rows < needed:
            return (
                f"all answers are left open: {self.rows} calibration rows cannot promise an error under "
                f"{self.max_error:.1%}, at least {needed} without a mistake are needed; give more --shots"
            )
        return (
            f"all answers are left open: at no confidence is the error sure to be under {self.max_error:.1%}; give a "
            "higher --max-error"
        )


def check_max_error(max_error: float) -> None:
    """Raise the ConfigError of an error that cannot be kept."""
    if not 0 < max_error < 1:
        raise ConfigError(f"--max-error {max_error}: give a share between 0 and 1, for instance 0.05")


def answer_threshold(
    confidence: Tensor, right: Tensor, max_error: float, weights: Tensor | None = None, risk: float = RISK
) -> Abstention:
    """The lowest confidence at which the error of the rows above it is bounded by `max_error`.

    Args:
        confidence: (n,) of calibration rows.
        right: (n,) bool, whether their answers are right.
        max_error: in 0..1.
        weights: (n,) how many images a row stands for; None: one.
        risk: how often the bound may fail.
    """
    check_max_error(max_error)
    if not len(confidence):
        return Abstention(max_error, math.inf, 0)
    order = confidence.argsort(descending=True, stable=True)
    confidence = confidence[order]
    weights = torch.ones(len(order), dtype=torch.float64) if weights is None else weights.double()[order]
    wrong, whole = (weights * ~right[order]).cumsum(0), weights.cumsum(0)
    effective = whole**2 / (weights**2).cumsum(0)  # rows of equal weight that tell as much
    for share in SHARES:
        least = confidence[max(0, math.ceil(share * len(order)) - 1)]
        last = int((confidence >= least).sum()) - 1  # ties are answered together
        error, count = float(wrong[last] / whole[last]), float(effective[last])
        if error_bound(error * count, count, risk / len(SHARES)) <= max_error:
            return Abstention(max_error, float(least), len(order))
    return Abstention(max_error, math.inf, len(order))


def error_bound(wrong: float, count: float, level: float) -> float:
    """Upper Clopper-Pearson bound of an error: `wrong` of `count` rows, exceeded with probability `level` at most."""
    from scipy.stats import beta

    return 1.0 if wrong >= count else float(beta.ppf(1 - level, wrong + 1, count - wrong))


def fewest_rows(max_error: float, risk: float = RISK) -> int:
    """Rows without a mistake that can promise an error."""
    return math.ceil(math.log(risk / len(SHARES)) / math.log(1 - max_error))


@dataclass(frozen=True, eq=False)
class Selective(Record):
    """What is left open.

    Attributes:
        max_error: share of the answers given that may be wrong.
        open: share of answers left open.
        answered: how many are given.
        error, interval: share of these that are wrong; None where none is given.
    """

    max_error: float
    open: float
    answered: int
    error: float | None
    interval: Sequence[float] | None

    @classmethod
    def of_answers(cls, left: Tensor, right: Tensor, units: Sequence[str], max_error: float) -> Selective:
        """Of N answers.

        Args:
            left, right: (N,) bool, which are left open, and which are right.
            units: N keys of answers that are drawn together for the interval.
        """
        wrong, of_given = ~right[~left], [unit for unit, one in zip(units, left.tolist()) if not one]
        error = float(wrong.double().mean()) if of_given else None
        interval = share_interval(wrong, of_given) if of_given else None
        return cls(max_error, float(left.double().mean()), len(of_given), error, interval)

    @property
    def words(self) -> str:
        rest = "none is given"
        if self.error is not None and self.interval is not None:
            low, high = self.interval
            rest = f"{self.error:.1%} of the others are wrong (95 % interval {low:.1%} to {high:.1%})"
        return f"for an error of at most {self.max_error:.1%}, {self.open:.1%} of the answers are left open; {rest}"
