"""Answers left open so that few of the others are wrong: how many that are, and how wrong the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..confidence.calibration import Calibration
from ..contracts.judgement import Record
from ..metrics.significance import share_interval


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

    @property
    def words(self) -> str:
        rest = "none is given"
        if self.error is not None:
            rest = f"{self.error:.1%} of the others are wrong (95 % interval {between_words(self.interval)})"
        return f"for an error of at most {self.max_error:.1%}, {self.open:.1%} of the answers are left open; {rest}"


def selective_scores(
    calibration: Calibration, probs: Tensor, labels: Tensor, max_error: float, groups: Sequence[str] | None = None
) -> Selective:
    """Share of answers left open, and the error of the others with its interval; with several labels, over all known
    labels, those of one image together."""
    left = calibration.open_answers(probs, max_error)
    units = [group or f"image {row}" for row, group in enumerate(groups or [""] * len(labels))]
    if calibration.multilabel:
        known = ~labels.isnan()
        right = (calibration.answers_of(probs) == (labels == 1))[known]
        left = left[known]
        units = [units[row] for row in known.nonzero()[:, 0].tolist()]
    else:
        right = probs.argmax(dim=1) == labels
    given = ~left
    of_given = [unit for unit, one in zip(units, given.tolist()) if one]
    return Selective(
        max_error=max_error,
        open=float(left.double().mean()),
        answered=int(given.sum()),
        error=float((~right[given]).double().mean()) if of_given else None,
        interval=share_interval(~right[given], of_given) if of_given else None,
    )


def between_words(bounds: Sequence[float] | None) -> str:
    """An interval of a share; "" for none."""
    return f"{bounds[0]:.1%} to {bounds[1]:.1%}" if bounds else ""
