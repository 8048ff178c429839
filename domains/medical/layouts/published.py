"""Which published set lies in a folder, told by the names of its tables and their columns; and that set as samples."""

from __future__ import annotations

import csv
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

from ....core.contracts import DomainData, check_items
from ....core.data import Format, ItemCollector, Table, group_of, shown, walk
from ....core.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ....core.runtime import read_start
from ..studies import STUDY, StudyFacts, as_studies
from ..targets import GROUNDING, Viewed
from .chexpert_columns import FINDINGS, NO_FINDING, chexpert, mimic_cxr_jpg
from .entries import Annotated, LayoutEntry
from .finding_lists import nih, nih_boxes, padchest
from .phrases import ms_cxr, phrase_table
from .reader_boxes import rsna, rsna_boxes, vindr, vindr_boxes
from .run_lengths import siim, siim_outlines

HEADER_BYTES = 1 << 16
OF_OBJECTS = ("detection", "segmentation")
"""Tasks that learn from boxes or outlines."""
Read = Callable[[Path, list[Path], Any], Annotated]


@dataclass(frozen=True)
class PublishedLayout:
    """How a set is laid out.

    Args:
        name: as papers write it.
        tables: globs of its tables below the folder, one or more of which are there.
        columns: that each of them has.
        read: (folder, files of its tables, options of the reader) -> the set.
        objects: the same with boxes or outlines, where it has these.
        options: of the reader, that change how it is read.
    """

    name: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    read: Read
    objects: Read | None = None
    options: tuple[str, ...] = ()

    def tables_at(self, path: Path) -> tuple[Path, list[Path]]:
        """The set's folder and its tables, where the path is that folder or one of the tables; no table of another."""
        if path.is_dir():
            folder, found = path, [file for glob in self.tables for file in sorted(path.glob(glob))]
        else:
            above = next((len(Path(glob).parts) for glob in self.tables if path.match(glob)), None)
            folder, found = path if above is None else path.parents[above - 1], [] if above is None else [path]
        return folder, [file for file in found if file.is_file() and set(self.columns) <= set(_header(file))]


CERTAINTY = ("uncertain", "blank")
VINDR_COLUMNS = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
LAYOUTS = (
    PublishedLayout(
        "CheXpert",
        ("train.csv", "valid.csv"),
        ("Path", "Frontal/Lateral", "AP/PA", NO_FINDING, *FINDINGS),
        chexpert,
        options=CERTAINTY,
    ),
    PublishedLayout(
        "MIMIC-CXR-JPG",
        ("mimic-cxr-2.0.0-chexpert.csv*", "mimic-cxr-2.0.0-negbio.csv*"),
        ("subject_id", "study_id", NO_FINDING, *FINDINGS),
        mimic_cxr_jpg,
        options=CERTAINTY,
    ),
    PublishedLayout(
        "ChestX-ray14",
        ("Data_Entry_2017*.csv",),
        ("Image Index", "Finding Labels", "Patient ID", "View Position"),
        nih,
        nih_boxes,
    ),
    PublishedLayout(
        "PadChest",
        ("PADCHEST_chest_x_ray_images_labels_160K*.csv*",),
        ("ImageID", "PatientID", "Projection", "Labels"),
        padchest,
    ),
    PublishedLayout(
        "VinDr-CXR",
        ("annotations/annotations_train.csv", "annotations/annotations_test.csv"),
        VINDR_COLUMNS,
        vindr,
        vindr_boxes,
        ("readers",),
    ),
    PublishedLayout(
        "VinDr-CXR", ("train.csv",), (*VINDR_COLUMNS, "class_id", "rad_id"), vindr, vindr_boxes, ("readers",)
    ),
    PublishedLayout(
        "RSNA Pneumonia",
        ("stage_2_train_labels.csv",),
        ("patientId", "x", "y", "width", "height", "Target"),
        rsna,
        rsna_boxes,
    ),
    PublishedLayout("SIIM-ACR Pneumothorax", ("train-rle.csv",), ("ImageId", "EncodedPixels"), siim, siim_outlines),
    PublishedLayout(
        "MS-CXR",
        ("MS_CXR_Local_Alignment_v1.*.csv",),
        ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height"),
        ms_cxr,
    ),
    PublishedLayout("phrases with boxes", ("phrases.csv",), ("image", "phrase", "x", "y", "w", "h"), phrase_table),
)


def published_layout(path: Path) -> PublishedLayout | None:
    """The layout of the set that a path is the folder or a table of, or None."""
    return next((layout for layout in LAYOUTS if layout.tables_at(path)[1]), None)


def read_layout(layout: PublishedLayout, path: Path, reading: Any, task: str) -> DomainData:
    """A labelled set of such a folder, or of one of its tables. Patients are its groups, and its splits are kept.

    Args:
        reading: options: `formats`, `class_names` for some of the findings, and what the layout names.
        task: "detection" and "segmentation" for boxes and outlines; "phrase-grounding" for these, or phrases; findings
            for any other.

    Raises:
        DataError: a table is malformed, its splits share patients, it has no boxes, or none of its images is there.
        UnknownNameError: a class name that is no finding of the set.
        ConfigError: studies are asked for of a set that has none.
    """
    folder, files = layout.tables_at(path)
    read = layout.objects if task in OF_OBJECTS else layout.read
    read = (layout.objects or layout.read) if task == GROUNDING else read
    if read is None:
        raise DataError(f"{path}: {layout.name} has no boxes or outlines; give another --task")
    annotated = read(folder, files, reading)
    if reading.unit == STUDY and not any(entry.study for entry in annotated.entries):
        raise ConfigError(f"--unit {STUDY}: {layout.name} does not say which images are of one study; omit it")
    _check_patients(annotated.entries, path)
    collector, row_of = _items(annotated.entries, folder, reading.formats)
    if not collector.items:
        count, reason = len(collector.skipped), next((f" ({': '.join(pair)})" for pair in collector.skipped), "")
        raise DataError(f"{path}: none of the {count} images of {layout.name} can be read{reason}; put them there")
    notes = [f"Recognised as {layout.name} by {', '.join(file.name for file in files)}.", *annotated.notes]
    if silent := sum(_says_nothing(entry.target.training_label()) for entry in annotated.entries):
        notes.append(f"Images of which no finding is known, left out: {silent}.")
    data = collector.data_set(
        folder, reading.formats, annotated.class_names, kind=annotated.kind, name=layout.name, notes=notes
    )
    if row_of:
        taken = ("Path", *annotated.class_names)
        data = replace(data, columns=Table.columns_reader([(file, rows, taken) for file, rows in row_of.items()]))
    data = check_items(_chosen(data, reading.class_names, path), path)
    return data if reading.unit != STUDY else as_studies(data, _told(annotated.entries))


def with_patients(data: DomainData, paths: Iterable[str | Path], reading: Any) -> DomainData:
    """New images, those of folders of published sets with the patients that the tables there tell.

    Args:
        paths: that they were read from.
        reading: options of the reader.
    """
    groups: dict[Path, str | None] = {}
    for folder in filter(Path.is_dir, map(Path, paths)):
        with suppress(DataError):  # a table that is not whole says nothing
            if (layout := published_layout(folder)) is not None:
                files = _files_by_name(folder, reading.formats)
                for entry in layout.read(folder, layout.tables_at(folder)[1], reading).entries:
                    groups |= {file.resolve(): group_of(entry.patient) for file in files.get(entry.image, ())}
    if not groups:
        return data
    known = (item.with_(group=item.group or groups.get(item.source.resolve())) for item in data.items)
    return data.with_items(list(known))


def _items(
    entries: Iterable[LayoutEntry], folder: Path, formats: Sequence[Format]
) -> tuple[ItemCollector, dict[Path, dict[str, int]]]:
    """The samples, and table -> id -> row."""
    collector, files = ItemCollector(), _files_by_name(folder, formats)
    row_of: dict[Path, dict[str, int]] = defaultdict(dict)
    for entry in entries:
        if _says_nothing(entry.target.training_label()):
            continue
        found = files.get(entry.image, ())
        if len(found) != 1:
            several = f"several files are called so: {' and '.join(shown(file, folder) for file in found[:2])}"
            collector.skip(entry.image, several if found else f"no such file below {folder}")
            continue
        before, group = len(collector.items), group_of(entry.patient)
        target = Viewed(entry.target, entry.view) if entry.view else entry.target
        collector.add_file(found[0], entry.image, formats, target=target, split=entry.split, group=group)
        if entry.row is not None:
            row_of[entry.row[0]] |= {item.id: entry.row[1] for item in collector.items[before:]}
    return collector, dict(row_of)


def _says_nothing(label: int | tuple[float, ...] | None) -> bool:
    """Whether no finding is known."""
    return isinstance(label, tuple) and all(map(isnan, label))


def _told(entries: Iterable[LayoutEntry]) -> StudyFacts:
    known = {entry.image: entry for entry in entries}
    return StudyFacts(*({id_: getattr(entry, name) for id_, entry in known.items()} for name in ("study", "view")))


def _files_by_name(folder: Path, formats: Sequence[Format]) -> dict[str, list[Path]]:
    """Path below the folder, and name of a file, each with and without its ending -> the files that are called so."""
    files: dict[str, list[Path]] = defaultdict(list)
    for file in walk(folder, folder, ItemCollector()):
        if Format.of(file, formats) is not None:
            path = Path(shown(file, folder))
            for name in {path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem}:
                files[name].append(file)
    return dict(files)


def _check_patients(entries: Iterable[LayoutEntry], path: Path) -> None:
    """Raise the DataError of splits that share a patient."""
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.patient and entry.split:
            splits[entry.patient].add(entry.split)
    if shared := [patient for patient, some in splits.items() if len(some) > 1]:
        names = " and ".join(sorted(splits[shared[0]]))
        raise DataError(
            f"{path}: {len(shared)} of its {len(splits)} patients are in more than one of the given splits ({names}); "
            "give splits by patient, or remove the lists of splits"
        )


def _chosen(data: DomainData, class_names: Sequence[str] | None, path: Path) -> DomainData:
    """The set with some of its findings alone, in the order given."""
    if class_names is None:
        return data
    for name in class_names:
        if name not in data.class_names:
            raise UnknownNameError(
                f"{path}: no finding '{name}' in {data.name}; {did_you_mean(name, data.class_names)}"
            )
    new = {data.class_names.index(name): place for place, name in enumerate(class_names)}
    items = [kept for item in data.items if (kept := item.restricted(new)) is not None]
    return replace(data.with_items(items), class_names=tuple(class_names))


def _header(file: Path) -> list[str]:
    """The columns of a table, packed or not; none where it is none."""
    start = read_start(file, HEADER_BYTES)
    if file.suffix == ".gz":
        try:
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, HEADER_BYTES)
        except zlib.error:
            return []
    line = start.decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    return [cell.strip() for cell in next(csv.reader([line]), [])]
