"""MS-CXR (Boecking et al., 2022, arXiv 2204.09817): phrases of reports on images of MIMIC-CXR, each with its boxes.

`MS_CXR_Local_Alignment_v1.*.csv` has a row per box; the rows of one image and one phrase belong together. So has a
table `phrases.csv` of one's own: `image`, `phrase`, `x`, `y`, `w`, `h`, and where they are known `finding`, `patient`,
`split`, `image_width` and `image_height`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....core.data import Row, read_table
from ....core.errors import DataError, shortened
from ..targets import Phrases
from .entries import Annotated, LayoutEntry, row_numbers

MIMIC_PATH = re.compile(r"p(?P<patient>\d+)/s\d+/[^/]+$")
MS_CXR, PLAIN = ("label_text", "category_name"), ("phrase", "finding")
"""Columns of the phrase and of what it is about."""
SIZE = ("image_width", "image_height")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "test": "test", "": ""}


def ms_cxr(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Every image with its phrases; of several versions of the table the newest.

    Raises:
        DataError: a path, a box or a split that the set does not have.
    """
    table = read_table(files[-1])
    findings = tuple(sorted({row.text("category_name") for row in table.rows}))
    rows_of: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for place, row in enumerate(table.rows):
        rows_of[row.text("path")].append((place, row))
    entries = []
    for path, rows in rows_of.items():
        place, first = rows[0]
        if (names := MIMIC_PATH.search(path)) is None:
            raise DataError(f"{first.place}: '{shortened(path)}' is no path of MIMIC-CXR (files/p10/p10000032/s...)")
        if (split := SPLITS.get(first.text("split"))) is None:
            raise DataError(f"{first.place}: split '{shortened(first.text('split'))}'; there are train, val, test")
        target, row = _phrases([row for _, row in rows], findings, MS_CXR), (table.path, place)
        entries.append(LayoutEntry(first.text("dicom_id"), target, names["patient"], split, row=row))
    return Annotated(findings, entries, "captions")


def phrase_table(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Every image with its phrases; a phrase without a finding is a finding of its own.

    Raises:
        DataError: no image, no phrase, a box or a split that cannot be.
    """
    table, rows_of = read_table(files[-1]), defaultdict(list)
    for place, row in enumerate(table.rows):
        for column in ("image", "phrase"):
            if not row.text(column):
                raise DataError(f"{row.place}: no {column}; fill it in, or remove the line")
        rows_of[row.text("image")].append((place, row))
    findings = tuple(sorted({row.text("finding") or row.text("phrase") for row in table.rows}))
    entries = []
    for image, rows in rows_of.items():
        place, first = rows[0]
        if (split := SPLITS.get(first.text("split"))) is None:
            raise DataError(f"{first.place}: split '{shortened(first.text('split'))}'; there are train, val, test")
        target = _phrases([row for _, row in rows], findings, PLAIN)
        entries.append(LayoutEntry(image, target, first.text("patient") or None, split, row=(table.path, place)))
    return Annotated(findings, entries, "captions")


def _phrases(rows: Sequence[Row], findings: Sequence[str], columns: tuple[str, str]) -> Phrases:
    """Of one image."""
    text, finding = columns
    boxes: dict[tuple[str, int], list] = defaultdict(list)
    for row in rows:
        x, y, width, height = row_numbers(row, "x", "y", "w", "h")
        if width <= 0 or height <= 0:
            raise DataError(f"{row.place}: a box of {width:g} x {height:g} pixels; correct w and h")
        phrase = row.text(text), findings.index(row.text(finding) or row.text(text))
        boxes[phrase].append((x, y, x + width, y + height))
    size = None
    if any(rows[0].text(column) for column in SIZE):
        size = tuple(map(int, row_numbers(rows[0], *SIZE)))
        if min(size) < 1:
            raise DataError(f"{rows[0].place}: an image of {size[0]} x {size[1]} pixels; correct {' and '.join(SIZE)}")
    texts, labels = zip(*boxes, strict=True)
    return Phrases(texts, labels, tuple(map(tuple, boxes.values())), size)
