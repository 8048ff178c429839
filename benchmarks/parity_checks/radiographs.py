"""Findings of published sets of radiographs, read from small files with their headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from vladapt.core.data import read_table
from vladapt.domains.medical.layouts import chexpert_columns, finding_lists, reader_boxes, run_lengths
from vladapt.domains.medical.layouts.certainty import written_findings
from vladapt.domains.medical.layouts.entries import Annotated
from vladapt.domains.medical.reading import MedicalReading

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

OURS = {
    "Effusion": ("Pleural Effusion", "Pleural effusion"),
    "Lesion": ("Other lesion",),
    "Pleural_Thickening": ("Pleural thickening",),
    "Pulmonary Fibrosis": ("Pulmonary fibrosis",),
}
"""The reference code's name of a finding -> those in the files."""
SETS: dict[str, tuple[str, Callable, str]] = {
    "nih": ("nih/Data_Entry_2017_v2020.csv", finding_lists.nih, "nih"),
    "mimic": ("mimic/mimic-cxr-2.0.0-chexpert.csv", chexpert_columns.mimic_cxr_jpg, "mimic"),
    "siim": ("siim/train-rle.csv", run_lengths.siim, "siim"),
    "vindr_kaggle": ("vindr_kaggle/train.csv", reader_boxes.vindr, "vindr_kaggle"),
}
CHEXPERT = "chexpert/train.csv"
POLICIES = {"zeros": "negative", "ones": "positive", "ignore": "ignore"}


@compares("radiographs", "cxr_labels")
def radiographs(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Every set; then what CheXpert's uncertain findings count as, with blanks as negative."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name, text in ref.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

        def read(file: str, reader: Callable, **options) -> Annotated:
            return reader((folder / file).parent, [folder / file], MedicalReading(**options))

        for name, (file, reader, meta) in SETS.items():
            yield _check(ref, f"{name}.labels", read(file, reader), ref.files_meta[meta])
        # not "chexpert.PA": there the reference code mixes the labels of a patient's images
        annotated = read(CHEXPERT, chexpert_columns.chexpert)
        yield _check(ref, "chexpert.all.labels", annotated, ref.files_meta["chexpert.all"])
        five = ref.files_meta["policy_columns"]
        for name, option in POLICIES.items():
            annotated = read(CHEXPERT, chexpert_columns.chexpert, uncertain=option, blank="negative")
            yield _compared(ref, f"OWN.policy.{name}", _matrix(annotated, five))
        ignored = _matrix(read(CHEXPERT, chexpert_columns.chexpert, blank="negative"), five)
        yield ref.check(ignored.nan_to_num(2.0), "OWN.policy.multiclass")
        gloria = read(CHEXPERT, chexpert_columns.chexpert, uncertain="gloria", blank="negative")
        yield _compared(ref, "chexpert.gloria_policy", _matrix(gloria, five))
        rows = read_table(folder / CHEXPERT).rows
        yield _compared(ref, "OWN.chexpert.raw_five", torch.from_numpy(written_findings(rows, five)))
        boxes = finding_lists.read_nih_boxes(folder / "nih" / finding_lists.BOX_LIST)
        corners = torch.tensor([corners for some in boxes.values() for _, corners in some])
        yield ref.check(torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1), "nih.boxes")


def _check(ref: Reference, key: str, annotated: Annotated, meta: dict) -> Check:
    """The images and the findings that the reference code took, in its order."""
    places = {entry.image: place for place, entry in enumerate(annotated.entries)}
    rows = [places[row.partition("/")[2] or row] for row in meta["rows"]]
    return _compared(ref, key, _matrix(annotated, meta["columns"])[rows])


def _matrix(annotated: Annotated, findings: Sequence[str]) -> Tensor:
    """(N, C) of the findings by the reference code's names; 0 for one that no image has."""
    values = torch.tensor([entry.target.values for entry in annotated.entries])
    columns = []
    for finding in findings:
        name = next((name for name in (finding, *OURS.get(finding, ())) if name in annotated.class_names), None)
        columns.append(values[:, annotated.class_names.index(name)] if name else torch.zeros(len(values)))
    return torch.stack(columns, dim=1)


def _compared(ref: Reference, key: str, ours: Tensor) -> Check:
    """NaN beside NaN agrees."""
    return ref.check(ours, key, where=~(ours.isnan() & ref[key].isnan()))


GROUPS = (radiographs,)

DEVIATIONS = {
    "radiographs": "every image has the findings of its own row; the released `unique_patients` takes of each column "
    "the first value of a patient's images that is not empty, and so mixes them",
}
