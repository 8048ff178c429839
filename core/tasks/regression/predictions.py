"""What a regression says of new images: a number and an interval each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...contracts.shown import in_short
from ...data.tables import csv_text

WIDTH = 32


@dataclass
class NumberPredictions:
    """Numbers of images.

    Attributes:
        column: what they are of.
        ids: N.
        numbers: N.
        half_widths: N, how far the interval of each reaches to either side; None where there are no intervals.
        skipped: (image, reason) of what could not be read.
        notes: sentences for the user.
        files: that were written.
    """

    __repr__ = in_short

    column: str
    ids: Sequence[str]
    numbers: Sequence[float]
    half_widths: Sequence[float] | None = None
    skipped: Sequence[tuple[str, str]] = ()
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """A dict per image: "id", "number", "low" and "high", None without an interval, and "column"."""
        return [self._row(place) for place in range(len(self.ids))]

    def _row(self, place: int) -> dict[str, Any]:
        number, half = self.numbers[place], None if self.half_widths is None else self.half_widths[place]
        low, high = (None, None) if half is None or math.isinf(half) else (number - half, number + half)
        return {"id": self.ids[place], "number": number, "low": low, "high": high, "column": self.column}

    def csv(self) -> str:
        """A table whose columns are called as the numbers are."""
        columns = ["id", self.column, f"{self.column}_low", f"{self.column}_high"]
        cells = ([row["id"], *("" if v is None else f"{v:.10g}" for v in _numbers(row))] for row in self.rows())
        return csv_text(columns, cells)


def number_predictions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For a terminal."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    made.add_column("image", overflow="fold", min_width=min(WIDTH, max((len(row["id"]) for row in rows), default=0)))
    made.add_column(rows[0]["column"] if rows else "number", justify="right")
    made.add_column("interval", justify="right")
    for row in rows:
        low, high = row["low"], row["high"]
        made.add_row(row["id"], number_text(row["number"]), interval_text((low, high), "–"))
    return made


def number_text(value: float | None, digits: int = 4) -> str:
    """For people: so many digits, and no power of ten below a billion ("304,100")."""
    if value is None:
        return "–"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10**digits <= abs(rounded) < 1e9 else f"{rounded:.{digits}g}"


def interval_text(bounds: Sequence[float | None] | None, without: str = "", digits: int = 4) -> str:
    """ "12.1 to 13.4"; `without` where there is none."""
    if not bounds or bounds[0] is None:
        return without
    return " to ".join(number_text(bound, digits) for bound in bounds)


def _numbers(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    return row["number"], row["low"], row["high"]
