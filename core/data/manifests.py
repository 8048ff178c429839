"""Manifests: CSV, TSV, JSONL or JSON lists with one image per row.

Columns, whatever their case: the image (`image`, `path`, `file`, ...), its label or labels, its split, its patient or
other group, captions. Several labels are separated by "|" or ";", or are a JSON list, or have one column each with 1,
0, and for unknown a blank, "nan" or -1 (as CheXpert marks the uncertain ones).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.domain import DomainData, check_items
from ..contracts.targets import Captions, Target
from ..errors import DataError, did_you_mean
from .class_folders import SPLIT_FOLDERS
from .files import Format, ItemCollector, licence_of, loader, locate
from .images import IMAGE
from .row_labels import RowLabels, is_indicator_column, labels_of_cells, labels_of_columns
from .tables import Row, Table, read_table

IMAGE_COLUMNS = ("image", "path", "image_path", "file", "filename", "file_name", "filepath", "image_index")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "finding_labels")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
GROUP_COLUMNS = ("patient", "patient_id", "patientid", "group", "group_id", "subject", "subject_id")
CAPTION_COLUMNS = ("caption", "captions")
# Numbers that happen to be 0 and 1 in a small table are not classes.
NO_CLASS_COLUMNS = ("", "index", "id", "fold", "age", "sex", "unnamed:_0")


def read_manifest(
    path: str | Path,
    formats: Sequence[Format] = (IMAGE,),
    class_names: Sequence[str] | None = None,
    root: str | Path | None = None,
) -> DomainData:
    """A labelled set from a table with one image per row.

    Rows without a label are left out and counted in a note; files that are missing are skipped and listed. Groups are
    kept as hashes, so that a patient's name in the table goes no further.

    Args:
        path: .csv, .tsv, .jsonl, or .json with a list of objects; UTF-8.
        formats: what counts as an image.
        class_names: the classes in order; by default all that occur, sorted. Labels may then be their indices too.
        root: folder that paths are relative to; by default the manifest's own, then `images/` in it.

    Raises:
        DataError: the file is missing or malformed, lacks the image or the label column, a path leaves the folder, a
            label is not in `class_names`, a split has an unknown name, or no usable row is left.
    """
    path = Path(path)
    table = read_table(path)
    columns = _Columns(table)
    labels = _labels(table, columns, class_names)
    roots = [Path(root)] if root is not None else [path.parent, path.parent / "images"]
    collector, notes = _read_rows(table, columns, labels, roots, formats)
    if not collector.items and collector.skipped:
        name, reason = collector.skipped[0]
        count = len(collector.skipped)
        raise DataError(f"{path}: none of its {count} images can be read ({name}: {reason}); correct them")
    data = DomainData(
        items=collector.items,
        class_names=labels.class_names,
        load=loader(formats),
        kind=labels.kind,
        name=path.resolve().parent.name,
        skipped=collector.skipped,
        notes=notes,
        licence=licence_of(path.parent),
    )
    return check_items(data, path)


class _Columns:
    """Which column of the table holds what; None where there is none."""

    def __init__(self, table: Table):
        self.by_name = {_normal(column): column for column in reversed(table.columns)}
        self.image, self.label = self._first(IMAGE_COLUMNS), self._first(LABEL_COLUMNS)
        self.split, self.group = self._first(SPLIT_COLUMNS), self._first(GROUP_COLUMNS)
        self.caption = self._first(CAPTION_COLUMNS)
        if self.image is None:
            raise DataError(_missing(table, "image", IMAGE_COLUMNS))

    def _first(self, names: Sequence[str]) -> str | None:
        return next((self.by_name[name] for name in names if name in self.by_name), None)

    @property
    def used(self) -> set[str | None]:
        return {self.image, self.label, self.split, self.group, self.caption}


def _normal(column: str) -> str:
    return column.strip().lower().replace(" ", "_")


def _missing(table: Table, what: str, names: Sequence[str]) -> str:
    return f"{table.path}: no {what} column ({', '.join(names[:4])}, ...); it has: {', '.join(table.columns)}"


def _labels(table: Table, columns: _Columns, class_names: Sequence[str] | None) -> RowLabels:
    if columns.label is not None:
        return labels_of_cells(table.rows, columns.label, class_names)
    if class_names is not None:
        absent = [name for name in class_names if name not in table.columns]
        if absent:
            raise DataError(_missing(table, f"label column and no '{absent[0]}'", LABEL_COLUMNS))
        return labels_of_columns(table.rows, class_names)
    indicators = [
        column
        for column in table.columns
        if column not in columns.used
        and _normal(column) not in NO_CLASS_COLUMNS
        and is_indicator_column(table.rows, column)
    ]
    if indicators:
        return labels_of_columns(table.rows, indicators)
    if columns.caption is not None:
        return RowLabels((), "captions", [Captions(())] * len(table.rows))
    raise DataError(_missing(table, "label", LABEL_COLUMNS))


def _read_rows(
    table: Table, columns: _Columns, labels: RowLabels, roots: Sequence[Path], formats: Sequence[Format]
) -> tuple[ItemCollector, list[str]]:
    collector, times_named, seen = ItemCollector(), Counter(), set()
    unlabelled = repeated = 0
    for row, target in zip(table.rows, labels.per_row, strict=True):
        name = row.text(columns.image)
        if not name:
            raise DataError(f"{row.place}: no image in column '{columns.image}'; fill it in or remove the line")
        file = locate(name, roots, row.place)
        fields = {"target": _captioned(target, row.values.get(columns.caption)), **_about(row, columns)}
        if target is None:
            unlabelled += 1
        elif (name, repr(fields)) in seen:
            repeated += 1
        elif file is None:
            collector.skip(name, f"no such file below {roots[0]}")
        else:
            seen.add((name, repr(fields)))
            times_named[name] += 1
            times = times_named[name]
            collector.add_file(file, name if times == 1 else f"{name}#row{times}", formats, **fields)
    notes = []
    if unlabelled:
        notes.append(f"Rows without a label, left out: {unlabelled} (write [] where none of several labels applies).")
    if repeated:
        notes.append(f"Repeated rows, left out: {repeated}.")
    return collector, notes


def _about(row: Row, columns: _Columns) -> dict[str, Any]:
    """Split and group of a row, as fields of its item."""
    fields: dict[str, Any] = {}
    split = row.text(columns.split)
    if split:
        if split.lower() not in SPLIT_FOLDERS:
            raise DataError(f"{row.place}: split '{split}'; {did_you_mean(split, ('train', 'val', 'test'))}")
        fields["split"] = SPLIT_FOLDERS[split.lower()]
    group = row.text(columns.group)
    if group:
        fields["group"] = hashlib.sha256(group.encode()).hexdigest()[:16]
    return fields


def _captioned(target: Target | None, captions: Any) -> Target | None:
    """The target of a row that may have captions besides its label."""
    if target is None or not captions:
        return target
    texts = tuple(captions) if isinstance(captions, list) else (str(captions).strip(),)
    return Captions(texts, target.class_label())
