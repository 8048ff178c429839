"""Accuracy by the number of labels, told by images drawn at random alone, and whether further labels pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..metrics.intervals import exact_interval, paired_shares

WORTH = 0.05
"""Gain in accuracy of a doubling of the labels below which further labels are said not to pay."""
PAYS, PAYS_NOT, UNKNOWN = "pays", "pays not", "unknown"


@dataclass(frozen=True)
class CurvePoint:
    """A model on the images drawn at random.

    Args:
        labels: images it learned from.
        right: (R,) bool, which it has right.
    """

    labels: int
    right: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Exact, 95 %."""
        return exact_interval(int(self.right.sum()), len(self.right))

    def to_dict(self) -> dict[str, object]:
        return {"labels": self.labels, "accuracy": self.accuracy, "interval": list(self.interval)}


@dataclass(frozen=True)
class Payoff:
    """What the last doubling of the labels brought.

    Args:
        verdict: "pays", "pays not" or "unknown".
        before, after: labels of the two models.
        gain: in accuracy.
        interval: its 95 % interval.
    """

    verdict: str
    before: int
    after: int
    gain: float
    interval: tuple[float, float]


def payoff(points: Sequence[CurvePoint]) -> Payoff | None:
    """Whether further labels pay, by the last model and the one with half as many labels or fewer.

    They do not where the interval of the gain ends below `WORTH`. They do where the gain is above 0 beyond chance. Else
    nobody can tell from so few images.

    Args:
        points: by rising numbers of labels; on the same images.

    Returns:
        None where there are no two such models.
    """
    if not points:
        return None
    last = points[-1]
    earlier = [point for point in points if 2 * point.labels <= last.labels and point.labels]
    if not earlier:
        return None
    first = earlier[-1]
    interval = paired_shares(first.right, last.right).interval()
    if interval is None:
        return None
    low, high = interval
    verdict = PAYS_NOT if high < WORTH else PAYS if low > 0 else UNKNOWN
    return Payoff(verdict, first.labels, last.labels, last.accuracy - first.accuracy, (low, high))
