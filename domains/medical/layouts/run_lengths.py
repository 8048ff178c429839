"""SIIM-ACR Pneumothorax (2019, a challenge on Kaggle): `train-rle.csv`, the outlines as run lengths.

A mask of 1024 x 1024 is counted down its columns; each start counts from the end of the run before. That is what COCO's
uncompressed run lengths are too, but for the zeros behind the last run.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Boxes, Labels
from ....core.data import Table, read_table
from ....core.errors import DataError, shortened
from .entries import Annotated, LayoutEntry

SIDE = 1024
COLUMN = "EncodedPixels"
NONE = "-1"
PNEUMOTHORAX = ("Pneumothorax",)


def siim(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Whether an image has a mask."""
    runs = _runs(read_table(files[0]))
    return Annotated(PNEUMOTHORAX, [LayoutEntry(image, Labels((float(bool(some)),))) for image, some in runs.items()])


def siim_outlines(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """The masks of every image, each with its box."""
    entries = []
    for image, some in _runs(read_table(files[0])).items():
        boxes, segments = tuple(map(_box, some)), tuple({"size": [SIDE, SIDE], "counts": counts} for counts in some)
        entries.append(LayoutEntry(image, Boxes(boxes, (0,) * len(some), segments, size=(SIDE, SIDE))))
    return Annotated(PNEUMOTHORAX, entries, "boxes")


def counts_of(runs: str, place: str, side: int = SIDE) -> list[int]:
    """COCO's counts of zeros and ones in turn, down the columns of a square.

    Args:
        runs: pairs of a start, from the end of the run before, and a length.
        place: for the message.

    Raises:
        DataError: no such pairs, or they leave the square.
    """
    try:
        counts = [int(number) for number in runs.split()]
    except ValueError:
        counts = []
    if not counts or len(counts) % 2 or min(counts) < 0 or min(counts[1::2]) < 1 or sum(counts) > side * side:
        raise DataError(
            f"{place}: '{shortened(runs)}' are no run lengths of {side} x {side} pixels (pairs of a start and a length)"
        )
    rest = side * side - sum(counts)
    return [*counts, rest] if rest else counts


def mask_of(counts: list[int], side: int = SIDE) -> np.ndarray:
    """(side, side) bool."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(side, side).T


def _runs(table: Table) -> dict[str, list[list[int]]]:
    """Image -> the counts of each of its masks."""
    runs: dict[str, list[list[int]]] = defaultdict(list)
    for row in table.rows:
        text = row.text(COLUMN)
        runs[row.text("ImageId")] += [] if text == NONE else [counts_of(text, row.place)]
    return dict(runs)


def _box(counts: list[int]) -> tuple[float, float, float, float]:
    mask = mask_of(counts)
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
