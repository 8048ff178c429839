"""MS-CXR (Boecking et al., 2022, arXiv 2204.09817): phrases of reports on images of MIMIC-CXR, each with its boxes.

`MS_CXR_Local_Alignment_v1.*.csv` has a row per box; the rows of one image and one phrase belong together.
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
from .entries import Annotated, Entry, numbers

MIMIC_PATH = re.compile(r"p(?P<patient>\d+)/s(?P<study>\d+)/[^/]+$")
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
        if (found := MIMIC_PATH.search(path)) is None:
            raise DataError(f"{first.place}: '{shortened(path)}' is no path of MIMIC-CXR (files/p10/p10000032/s...)")
        if (split := SPLITS.get(first.text("split"))) is None:
            raise DataError(f"{first.place}: split '{shortened(first.text('split'))}'; there are train, val, test")
        target, row = _phrases([row for _, row in rows], findings), (table.path, place)
        entries.append(Entry(first.text("dicom_id"), target, found["patient"], split, found["study"], row))
    return Annotated(findings, entries, "captions")


def _phrases(rows: Sequence[Row], findings: Sequence[str]) -> Phrases:
    """Of one image."""
    boxes: dict[tuple[str, int], list] = defaultdict(list)
    for row in rows:
        x, y, width, height = numbers(row, "x", "y", "w", "h")
        phrase = row.text("label_text"), findings.index(row.text("category_name"))
        boxes[phrase].append((x, y, x + width, y + height))
    width, height = numbers(rows[0], "image_width", "image_height")
    texts, labels = zip(*boxes, strict=True)
    return Phrases(texts, labels, tuple(map(tuple, boxes.values())), (int(width), int(height)))
