"""A folder of DICOM files that is not sorted into class folders: an attribute of the header names the class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.contracts import DomainData, Label, check_items
from ...core.data import Format, ItemCollector, group_by_tables_beside, shown, walk
from ...core.errors import DataError, UnknownNameError, did_you_mean

LABEL_TAGS = ("BodyPartExamined", "ImageLaterality", "Laterality", "Modality", "ViewPosition")
"""Attributes of fixed vocabularies that say nothing of a person; others are refused."""

MODALITIES = {
    "CR": "radiograph",
    "CT": "computed tomography",
    "DX": "radiograph",
    "MG": "mammography",
    "MR": "magnetic resonance imaging",
    "NM": "nuclear medicine scan",
    "OCT": "optical coherence tomography",
    "OP": "fundus photograph",
    "PT": "positron emission tomography",
    "RTDOSE": "radiotherapy dose map",
    "SEG": "segmentation mask",
    "SM": "slide microscopy",
    "US": "ultrasound",
    "XA": "angiography",
}


def read_dicom_folder(path: str | Path, formats: Sequence[Format], label_tag: str, group_column: str) -> DomainData:
    """All DICOM files below a folder, the class of each told by its header, its patient too where no table does.

    Args:
        path: the folder.
        formats: one of them named "DICOM"; only its files are read.
        label_tag: "Modality", "BodyPartExamined", "ViewPosition", "Laterality" or "ImageLaterality".
        group_column: of a table in the folder that lists the files; "auto" to find it, "none" for no groups.

    Raises:
        UnknownNameError: another attribute.
        DataError: fewer than two classes. Files without the attribute are skipped and listed.
    """
    if label_tag not in LABEL_TAGS:
        raise UnknownNameError(f"option label_tag: '{label_tag}' is not an attribute for classes; {_known(label_tag)}")
    root, dicom = Path(path), [fmt for fmt in formats if fmt.name == "DICOM"]
    collector, labels = ItemCollector(), []
    for file in walk(root, root, collector):
        if Format.of(file, dicom) is None:
            continue
        name, before = shown(file, root), len(collector.items)
        collector.add_file(file, name, dicom)
        if len(collector.items) > before and not (label := _label(file, label_tag)):
            del collector.items[before:]
            collector.skip(name, f"its header has no {label_tag}, which names the class")
        elif len(collector.items) > before:
            labels += [label] * (len(collector.items) - before)
    class_names = sorted(set(labels))
    targets = [Label(class_names.index(label)) for label in labels]
    items = [item.with_(target=target) for item, target in zip(collector.items, targets, strict=True)]
    data = collector.data_set(root, dicom, class_names, items=items)
    return group_by_tables_beside(check_items(data, root), root, group_column)


def has_dicom_files(path: Path, formats: Sequence[Format]) -> bool:
    """Whether a DICOM file lies below a folder."""
    dicom = [fmt for fmt in formats if fmt.name == "DICOM"]
    return any(Format.of(file, dicom) is not None for file in walk(path, path, ItemCollector()))


def no_classes(path: Path) -> DataError:
    """What to say of DICOM files that nothing names the classes of."""
    return DataError(
        f"{path}: DICOM files, but nothing names their classes; put them into class folders, add a labels.csv, "
        f"or give the option label_tag ({', '.join(LABEL_TAGS)})"
    )


def _label(file: Path, label_tag: str) -> str:
    from .dicom_header import open_data_set

    data_set = open_data_set(file, specific_tags=[label_tag], stop_before_pixels=True)
    value = str(data_set.get(label_tag) or "").strip()
    if not value.replace(" ", "").isalnum() or len(value) > 16:  # the vocabulary's own form: short, plain words
        return ""
    return MODALITIES.get(value, value) if label_tag == "Modality" else value.lower()


def _known(label_tag: str) -> str:
    return did_you_mean(label_tag, LABEL_TAGS)
