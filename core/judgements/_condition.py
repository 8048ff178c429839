"""How a run, and zero-shot beside it, does on images that one thing was done to, and on the same images as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..contracts.images import height_and_width
from ..contracts.judgement import JudgedClassifier
from ..metrics.intervals import paired_shares, share_interval
from ..robustness.corruption import CHANNELS
from ..runs.sections import Cell, Measure

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

SHARE = Measure("")
HEADING = 14
"""Characters of a line of a heading in a terminal."""


@dataclass(frozen=True)
class ConditionScores:
    """Of images under one condition.

    Attributes:
        accuracy, interval: of the run.
        change, change_interval: from the images as they are, paired; None of a single patient.
        zero_shot, zero_shot_interval: accuracy of zero-shot, or None.
        gain, gain_interval: of the run over zero-shot, paired.
    """

    accuracy: float
    interval: Sequence[float]
    change: float
    change_interval: Sequence[float] | None
    zero_shot: float | None = None
    zero_shot_interval: Sequence[float] | None = None
    gain: float | None = None
    gain_interval: Sequence[float] | None = None

    @classmethod
    def of(
        cls, clean: Tensor, right: Tensor, zero_shot: Tensor | None, groups: Sequence[str] | None
    ) -> ConditionScores:
        """Of (n,) bool, which images are right: as they are, under the condition, and by zero-shot under it."""
        change = paired_shares(clean, right, groups)
        scores = (float(right.double().mean()), share_interval(right, groups), change.value, change.bounds)
        if zero_shot is None:
            return cls(*scores)
        gain = paired_shares(zero_shot, right, groups)
        share = float(zero_shot.double().mean())
        return cls(*scores, share, share_interval(zero_shot, groups), gain.value, gain.bounds)

    def cells(self) -> tuple[Cell, Cell, Cell, Cell]:
        """Zero-shot, the run, the change from the images as they are, the gain over zero-shot."""
        return (
            Cell(SHARE.text(self.zero_shot), SHARE.between(self.zero_shot_interval)),
            Cell(SHARE.text(self.accuracy), SHARE.between(self.interval)),
            in_points(self.change, self.change_interval),
            in_points(self.gain, self.gain_interval),
        )


def why_unchanged(fit: JudgedClassifier, least_side: int) -> str:
    """Why the test images of a run cannot be changed and encoded again; "" where they can.

    Args:
        least_side: pixels of the tower's images below which nothing of the change would be seen.
    """
    if fit.before is None:
        return "a features file holds no images"
    if fit.several_labels:
        return "images may have several labels"
    channels = fit.before.channels
    if channels is not None and len(channels) != CHANNELS:
        return f"they have {len(channels)} channels, not {CHANNELS}"
    if min(height_and_width(fit.before.image_size)) < least_side:
        return f"the tower's images are smaller than {least_side} pixels"
    return ""


def in_points(value: float | None, interval: Sequence[float] | None) -> Cell:
    """A signed change in points, with its interval."""
    if value is None:
        return Cell("–")
    texts = [f"{round(100 * each, 1) + 0.0:+.1f}".replace("-", "−") for each in (value, *(interval or ()))]
    return Cell(texts[0], " to ".join(texts[1:]))


def printed(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """For the terminal: a name, which is broken where it is long, then values with their intervals, which are not."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    first, *others = (name.lower() for name in header)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column("\n".join(wrap(name, HEADING)), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(each if isinstance(each, str) else in_two_lines(each) for each in row))
    return table


def in_two_lines(cell: Cell) -> str:
    """A value, and below it its interval, which so fits into the columns of a terminal."""
    return f"{cell.text}\n({cell.small.replace('% to ', '–')})" if cell.small else cell.text
