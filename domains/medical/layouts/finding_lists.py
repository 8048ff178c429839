"""NIH ChestX-ray14 and PadChest: one column that lists the findings of each image; what it does not list is absent.

* ChestX-ray14 (Wang et al., 2017, arXiv 1705.02315): `Data_Entry_2017*.csv`, the official lists by patient,
  `BBox_List_2017.csv` with boxes in some of the images.
* PadChest (Bustos et al., 2020, arXiv 1901.07441): `PADCHEST_chest_x_ray_images_labels_160K*.csv`, lists as Python
  writes them. "normal" and "unchanged" are no findings; images marked "exclude" or "suboptimal study" are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ....core.contracts import Boxes, Labels
from ....core.data import Row, Table, read_table
from ....core.errors import DataError, did_you_mean, shortened
from ....core.runtime import text_lines
from .entries import Annotated, LayoutEntry, check_table_columns, row_numbers

NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
)
NIH_NONE = "No Finding"
NIH_SPELLED = {"Infiltrate": "Infiltration"}
"""A finding in the table of boxes -> in the other."""
NIH_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
BOX_LIST = "BBox_List_2017.csv"
PADCHEST_NONE = frozenset({"normal", "unchanged"})
PADCHEST_LEFT_OUT = frozenset({"exclude", "suboptimal study"})
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def nih(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Every image, with the official split where its lists lie there.

    Raises:
        DataError: a finding that the set does not have.
    """
    entries = []
    for place, row, names, split in _nih_rows(folder, read_table(files[0])):
        target = Labels(tuple(float(name in names) for name in NIH_FINDINGS))
        image, patient, view = row.text("Image Index"), row.text("Patient ID"), row.text("View Position")
        entries.append(LayoutEntry(image, target, patient, split, view=view, row=(files[0], place)))
    return Annotated(NIH_FINDINGS, entries)


def nih_boxes(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """The images in which boxes are drawn. Those of further findings in them are not, which `facts` says.

    Raises:
        DataError: no table of boxes, or a finding that the set does not have.
    """
    if not (path := folder / BOX_LIST).is_file():
        raise DataError(f"{folder}: no {BOX_LIST}, which has the boxes of ChestX-ray14; put it there")
    boxes, entries = read_nih_boxes(path), []
    for place, row, names, split in _nih_rows(folder, read_table(files[0])):
        if drawn := boxes.get(row.text("Image Index")):
            seen = tuple(NIH_FINDINGS.index(name) for name, _ in drawn)
            absent = [n for n, name in enumerate(NIH_FINDINGS) if name not in names and n not in seen]
            target = Boxes(tuple(corners for _, corners in drawn), seen, facts={"absent": absent, "partial": []})
            image, patient = row.text("Image Index"), row.text("Patient ID")
            entries.append(LayoutEntry(image, target, patient, split, row=(files[0], place)))
    return Annotated(NIH_FINDINGS, entries, "boxes")


def read_nih_boxes(path: Path) -> dict[str, list[tuple[str, tuple[float, float, float, float]]]]:
    """Image -> the findings that are drawn in it, with x0, y0, x1, y1. Commas in the header divide "Bbox [x,y,w,h]".

    Raises:
        DataError: a finding that the set does not have, or no numbers.
    """
    table, boxes = read_table(path), defaultdict(list)
    check_table_columns(table, "Image Index", "Finding Label", *(columns := ("Bbox [x", "y", "w", "h]")))
    for row in table.rows:
        x, y, width, height = row_numbers(row, *columns)
        name = row.text("Finding Label")
        name = _of_nih(NIH_SPELLED.get(name, name), row)
        boxes[row.text("Image Index")].append((name, (x, y, x + width, y + height)))
    return dict(boxes)


def padchest(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Every image that has been labelled; the classes are the findings that occur."""
    rows = [(place, row, _python_list(row)) for place, row in enumerate(read_table(files[0]).rows)]
    usable = [(place, row, names) for place, row, names in rows if names and not names & PADCHEST_LEFT_OUT]
    findings = tuple(sorted(set().union(*(names for *_, names in usable)) - PADCHEST_NONE))
    entries = []
    for place, row, names in usable:
        target = Labels(tuple(float(name in names) for name in findings))
        patient, study = row.text("PatientID"), row.text("StudyID")
        known = patient, "", study, row.text("Projection"), (files[0], place)
        entries.append(LayoutEntry(row.text("ImageID"), target, *known))
    unlabelled = sum(not names for *_, names in rows)
    notes = [
        f"Images without labels, left out: {unlabelled}; marked exclude or suboptimal study: "
        f"{len(rows) - len(usable) - unlabelled}."
    ]
    return Annotated(findings, entries, notes=notes if len(usable) < len(rows) else [])


def _nih_rows(folder: Path, table: Table) -> Iterator[tuple[int, Row, Sequence[str], str]]:
    """Position, row, findings and split of each image."""
    split_of = {
        line.strip(): split
        for name, split in NIH_LISTS.items()
        if (folder / name).is_file()
        for line in text_lines(folder / name)
    }
    for place, row in enumerate(table.rows):
        names = [name.strip() for name in row.text("Finding Labels").split("|")]
        found = [_of_nih(name, row) for name in names if name != NIH_NONE]
        yield place, row, found, split_of.get(row.text("Image Index"), "")


def _of_nih(name: str, row: Row) -> str:
    if name not in NIH_FINDINGS:
        raise DataError(
            f"{row.place}: '{shortened(name)}' is no finding of ChestX-ray14; {did_you_mean(name, NIH_FINDINGS)}"
        )
    return name


def _python_list(row: Row) -> frozenset[str]:
    """The names in a list as Python writes it; none where nothing stands there.

    Raises:
        DataError: the text is no list.
    """
    text = row.text("Labels")
    if text and text.lower() != "nan" and not (text.startswith("[") and text.endswith("]")):
        raise DataError(f"{row.place}: '{shortened(text)}' in column 'Labels' is no list; correct it")
    return frozenset(name for one, other in QUOTED.findall(text) if (name := (one or other).strip().lower()))
