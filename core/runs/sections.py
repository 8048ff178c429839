"""What a domain that scores its task itself shows in the report: tables, pictures and curves, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TableSection:
    """Rows of texts and numbers under a title; numbers from 0 to 1 are shown as percentages where `shares` is set.

    Args:
        header: names of the columns.
        rows: a text first, then texts, numbers or None.
        note: a sentence under the title, or "".
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    note: str = ""
    shares: bool = True
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class PictureSection:
    """Pictures with a line under each.

    Args:
        pictures: (image (H, W, 3) uint8, caption).
        note: a sentence under the title, or "".
        side: the longer side they are shown with, in pixels.
        columns: so many beside each other, for pictures that belong together; None as many as there is room for.
    """

    title: str
    pictures: Sequence[tuple[np.ndarray, str]]
    note: str = ""
    side: int = 420
    columns: int | None = None
    kind: str = field(default="pictures", init=False)


@dataclass(frozen=True)
class CurveSection:
    """Curves in one plot.

    Args:
        curves: name -> (xs, ys).
        x, y: what the axes are.
        note: a sentence under the title, or "".
        unit: both axes go from 0 to 1.
    """

    title: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x: str
    y: str
    note: str = ""
    unit: bool = True
    kind: str = field(default="curves", init=False)
