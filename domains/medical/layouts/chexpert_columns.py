"""CheXpert and MIMIC-CXR-JPG: one column for each of CheXpert's findings.

* CheXpert (Irvin et al., 2019, arXiv 1901.07031): `train.csv` and `valid.csv`, a row per image.
* MIMIC-CXR-JPG (Johnson et al., 2019, arXiv 1901.07042): labels per study, by the labellers of CheXpert or NegBio, and
  the images of each study in the metadata; splits by patient.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ....core.data import Row, Table, read_table
from ....core.errors import DataError, shortened
from ..targets import SoftFindings
from .certainty import settled, written_findings
from .entries import Annotated, LayoutEntry, check_table_columns

DEVICES = "Support Devices"
FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"),
    *("Lung Lesion", "Lung Opacity", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax"),
    DEVICES,
)
NO_FINDING = "No Finding"
CHEXPERT_SPLITS = {"train": "train", "valid": "val"}
CHEXPERT_PATH = re.compile(r"^(?:CheXpert-v1\.0[^/]*/)?(?P<image>.*(?P<patient>patient\d+)/(?P<study>study\d+)/[^/]+)$")
MIMIC_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def chexpert(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Every image of the tables.

    Raises:
        DataError: a path or a finding that the set does not have.
    """
    rows = [(table.path, place, row) for table in map(read_table, files) for place, row in enumerate(table.rows)]
    targets, notes = _findings([row for *_, row in rows], reading, untouched=[DEVICES])
    entries = []
    for (table, place, row), target in zip(rows, targets, strict=True):
        if (path := CHEXPERT_PATH.match(row.text("Path"))) is None:
            shown = shortened(row.text("Path"))
            raise DataError(
                f"{row.place}: '{shown}' is no path of CheXpert (train/patient00001/study1/...); correct it"
            )
        split, study = CHEXPERT_SPLITS[table.stem], f"{path['patient']}/{path['study']}"
        view = row.text("AP/PA") or row.text("Frontal/Lateral")
        entries.append(LayoutEntry(path["image"], target, path["patient"], split, study, view, (table, place)))
    return Annotated(FINDINGS, entries, notes=notes)


def mimic_cxr_jpg(folder: Path, files: list[Path], reading: Any) -> Annotated:
    """Every image of the metadata whose study has labels; those of CheXpert's labeller where both lie there.

    Raises:
        DataError: no metadata, or a split or a finding that the set does not have.
    """
    labels = read_table(files[0])
    metadata = _beside(folder, "metadata", "dicom_id", "subject_id", "study_id", "ViewPosition")
    if metadata is None:
        raise DataError(f"{labels.path}: no mimic-cxr-2.0.0-metadata.csv.gz beside it, which lists the images; get it")
    targets, notes = _findings(labels.rows, reading)
    of_study = dict(zip((row.text("study_id") for row in labels.rows), targets, strict=True))
    splits = _beside(folder, "split", "dicom_id", "split")
    split_of = {} if splits is None else {row.text("dicom_id"): _split(row) for row in splits.rows}
    entries = []
    for place, row in enumerate(metadata.rows):
        patient, study, image = row.text("subject_id"), row.text("study_id"), row.text("dicom_id")
        if study in of_study:
            known = patient, split_of.get(image, ""), study, row.text("ViewPosition"), (metadata.path, place)
            entries.append(LayoutEntry(image, of_study[study], *known))
    if without := len(metadata.rows) - len(entries):
        notes.append(f"Images whose study has no labels, left out: {without}.")
    return Annotated(FINDINGS, entries, notes=notes)


def _findings(
    rows: Sequence[Row], reading: Any, untouched: Collection[str] = ()
) -> tuple[list[SoftFindings], list[str]]:
    healthy = written_findings(rows, [NO_FINDING])[:, 0] == 1
    return settled(written_findings(rows, FINDINGS), FINDINGS, healthy, reading, untouched)


def _beside(folder: Path, part: str, *columns: str) -> Table | None:
    """Another of MIMIC's tables, packed or not; None where it is not there."""
    path = next(iter(sorted(folder.glob(f"mimic-cxr-2.0.0-{part}.csv*"))), None)
    if path is None:
        return None
    table = read_table(path)
    check_table_columns(table, *columns)
    return table


def _split(row: Row) -> str:
    if (text := row.text("split")) not in MIMIC_SPLITS:
        raise DataError(f"{row.place}: split '{shortened(text)}'; there are {', '.join(MIMIC_SPLITS)}")
    return MIMIC_SPLITS[text]
