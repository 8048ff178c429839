"""Manifests: CSV, TSV, JSONL or JSON lists with one image per row.

Columns, in any case and with any separators: the image (`image`, `path`, `file`, ...), its label or labels, its split,
its patient or other group (`group_columns.py`), captions. Several labels are separated by "|" or ";", or are a JSON
list, or have one column each with 1, 0, and for unknown a blank, "nan" or -1 (as CheXpert marks the uncertain ones).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contracts.items import Captions, DomainData, Number, Target, check_items
from ..errors import DataError, did_you_mean
from .class_folders import Layout
from .files import Format, ItemCollector, locate, shown
from .group_columns import AUTO, COLUMN, NONE, OPTION, Grouping, group_rows, open_groups
from .group_names import GroupNames
from .images import IMAGE
from .row_labels import RowLabels, is_indicator_column, labels_of_cells, labels_of_columns
from .tables import Row, Table, read_table

NUMBERS = "numbers"
"""Kind of a set with one number per image."""
CAPTION_COLUMNS = ("caption", "captions", "report", "report_text", "findings", "impression")
# Numbers that happen to be 0 and 1 in a small table are not classes.
NO_CLASS_COLUMNS = ("", "index", "id", "fold", "age", "sex", "unnamed0")


def read_manifest(
    path: str | Path,
    formats: Sequence[Format] = (IMAGE,),
    class_names: Sequence[str] | None = None,
    root: str | Path | None = None,
    label_column: str | None = None,
    group_column: str = AUTO,
) -> DomainData:
    """A labelled set from a table with one image per row.

    Rows without a label are left out and counted in a note; files that are missing are skipped and listed. Groups are
    kept as hashes, so that a patient's name in the table goes no further; a note says which column tells them.

    Args:
        path: .csv, .tsv, .jsonl, or .json with a list of objects; UTF-8.
        formats: what counts as an image.
        class_names: the classes in order; by default all that occur, sorted. Labels may then be their indices too.
        root: folder that paths are relative to; by default the manifest's own, then `images/` in it.
        label_column: the column of the label; by default one of the usual names.
        group_column: the column of what belongs together; "auto" to find it by the usual names, "none" for no groups.

    Raises:
        DataError: the file is missing or malformed, lacks the image or the label column, a path leaves the folder, a
            label is not in `class_names`, a split has an unknown name, or no usable row is left.
        UnknownNameError: there is no column of a given name.
    """
    path = Path(path)
    table = read_table(path)
    columns = TableColumns(table, label_column, group_column, [name for fmt in formats for name in fmt.columns])
    return data_of_table(table, columns, _labels(table, columns, class_names), formats, root, group_column)


def data_of_table(
    table: Table,
    columns: TableColumns,
    labels: RowLabels,
    formats: Sequence[Format],
    root: str | Path | None,
    group_column: str,
) -> DomainData:
    """The set of a table whose rows have these targets; arguments and errors as of `read_manifest`."""
    path = table.path
    roots = [Path(root)] if root is not None else [path.parent, path.parent / "images"]
    classes = [() if target is None else target.classes() for target in labels.per_row]
    names = [row.text(columns.image) for row in table.rows]
    grouping = group_rows(table, names, classes, taken=columns.used, named=group_column)
    collector, row_of, notes = _read_rows(table, columns, labels, grouping, roots, formats)
    if not collector.items and collector.skipped:
        name, reason = collector.skipped[0]
        count = len(collector.skipped)
        raise DataError(f"{path}: none of its {count} images can be read ({name}: {reason}); correct them")
    notes = [*labels.notes, *notes, *columns.notes, *_notes_on_groups(grouping, collector, group_column)]
    name = path.resolve().parent.name
    data = collector.data_set(path, formats, labels.class_names, kind=labels.kind, name=name, notes=notes)
    if group_column == AUTO and not any(item.group for item in data.items):
        ids: list[str | None] = [None] * len(table.rows)
        for id_, number in row_of.items():
            ids[number] = id_
        data = replace(data, open_groups=open_groups(table, ids, columns.used, grouping.notes[0]))
    taken = [columns.image, *([columns.label] if columns.label else labels.class_names)]
    return check_items(replace(data, columns=Table.columns_reader([(path, row_of, taken)])), path)


def has_label_columns(path: Path) -> bool:
    """Whether a table says anything of classes or captions. One that cannot be read counts: its reader says why."""
    try:
        table = read_table(path)
        _labels(table, TableColumns(table), None)
    except _NotThere:
        return False
    except DataError:
        pass
    return True


class _NotThere(DataError):
    """A table without a column of images or of labels."""


class TableColumns:
    """Which column of the table holds what; None where there is none."""

    def __init__(self, table: Table, label: str | None = None, group: str = AUTO, images: Sequence[str] = ()):
        images = [*images, *Table.IMAGE]
        self.image, self.split = table.column_of(images), table.column_of(Table.SPLIT)
        self.caption = table.column_of(CAPTION_COLUMNS)
        self.group = None
        if group not in (AUTO, NONE) and not GroupNames.are_named_by(group):
            self.group = table.column_named(group.removeprefix(COLUMN), OPTION)
        if self.image is None:
            raise _NotThere(_missing(table, "image", images))
        self.notes: list[str] = []
        self.label = _label_column(table, self.notes) if label is None else table.column_named(label, "label_column")

    @property
    def used(self) -> set[str | None]:
        return {self.image, self.label, self.split, self.group, self.caption}


def _label_column(table: Table, notes: list[str]) -> str | None:
    """The column of the label; adds a note where another would give other classes.

    Raises:
        DataError: several columns may be it, and none of them is called label.
    """
    columns = list(dict.fromkeys(column for name in Table.LABEL if (column := table.column_of([name])) is not None))
    if not columns:
        return None
    first, *others = columns
    others = [column for column in others if not _says_the_same(table, first, column)]
    if not others:
        return first
    listed = ", ".join(f"'{column}'" for column in others)
    if Table.plain_name(first) not in Table.LABEL[:2]:
        raise DataError(
            f"{table.path}: '{first}' and {listed} could both be the label, and they differ; choose one with "
            "--label-column"
        )
    notes.append(f"Labels are those of column '{first}'; {listed} would give others (--label-column).")
    return first


def _says_the_same(table: Table, first: str, second: str) -> bool:
    """Whether two columns only name the classes differently."""
    pairs = {(row.text(first), row.text(second)) for row in table.rows}
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def _missing(table: Table, what: str, names: Sequence[str]) -> str:
    cure = "; name it with --label-column" if what.startswith("label") else ""
    columns = ", ".join(map(str, table.columns))
    return f"{table.path}: no {what} column ({', '.join(names[:4])}, ...); it has: {columns}{cure}"


def _labels(table: Table, columns: TableColumns, class_names: Sequence[str] | None) -> RowLabels:
    if columns.label is not None:
        return labels_of_cells(table.rows, columns.label, class_names)
    if class_names is not None:
        absent = [name for name in class_names if name not in table.columns]
        if absent:
            raise DataError(_missing(table, f"label column and no '{absent[0]}'", Table.LABEL))
        return labels_of_columns(table.rows, class_names)
    indicators = [
        column
        for column in table.columns
        if column not in columns.used
        and Table.plain_name(column) not in NO_CLASS_COLUMNS
        and is_indicator_column(table.rows, column)
    ]
    if indicators:
        return labels_of_columns(table.rows, indicators)
    if columns.caption is not None:
        return RowLabels((), "captions", [Captions(())] * len(table.rows))
    raise _NotThere(_missing(table, "label", Table.LABEL))


def _read_rows(
    table: Table,
    columns: TableColumns,
    labels: RowLabels,
    grouping: Grouping,
    roots: Sequence[Path],
    formats: Sequence[Format],
) -> tuple[ItemCollector, dict[str, int], list[str]]:
    """The items, the row that each is of, and notes."""
    collector, times_named, seen = ItemCollector(), Counter(), set()
    row_of: dict[str, int] = {}
    unlabelled = repeated = 0
    for number, (row, target, group) in enumerate(zip(table.rows, labels.per_row, grouping.groups, strict=True)):
        name = row.text(columns.image)
        if not name:
            raise DataError(f"{row.place}: no image in column '{columns.image}'; fill it in or remove the line")
        file = locate(name, roots, row.place, formats)
        of_several = file is not None and any(fmt.whole_of(file) is not None for fmt in formats)
        spelled = str(file) if of_several else name  # files of one sample, each in a row, are rows of that sample
        fields = {"target": _captioned(target, row.values.get(columns.caption)), **_split(row, columns), "group": group}
        if target is None:
            unlabelled += 1
        elif (spelled, repr(fields)) in seen:
            repeated += 1
        elif file is None:
            collector.skip(name, f"no such file below {roots[0]}")
        else:
            seen.add((spelled, repr(fields)))
            id_ = _id(name, file, roots)
            times_named[id_] += 1
            times = times_named[id_]
            before = len(collector.items)
            collector.add_file(file, id_ if times == 1 else f"{id_}#row{times}", formats, **fields)
            row_of |= {item.id: number for item in collector.items[before:]}
    notes = []
    if unlabelled and labels.kind == NUMBERS:
        notes.append(f"Rows without a number in column '{columns.label}', left out: {unlabelled}.")
    elif unlabelled:
        notes.append(f"Rows without a label, left out: {unlabelled} (write [] where none of several labels applies).")
    if repeated:
        notes.append(f"Repeated rows, left out: {repeated}.")
    return collector, row_of, notes


def _id(name: str, file: Path, roots: Sequence[Path]) -> str:
    """The name as listed; of an absolute path the part below the set's folder, wherever that stands."""
    if not Path(name).is_absolute():
        return name
    return shown(file.parent.resolve() / file.name, roots[0].resolve())


def _split(row: Row, columns: TableColumns) -> dict[str, Any]:
    """The split of a row, as a field of its item."""
    split = row.text(columns.split)
    if not split:
        return {}
    if split.lower() not in Layout.SPLITS:
        raise DataError(f"{row.place}: split '{split}'; {did_you_mean(split, ('train', 'val', 'test'))}")
    return {"split": Layout.SPLITS[split.lower()]}


def _notes_on_groups(grouping: Grouping, collector: ItemCollector, asked: str) -> list[str]:
    """Where the table tells no groups, those that the files themselves tell; "none" takes them away too."""
    told = {item.group for item in collector.items if item.group}
    if asked == NONE:
        collector.items = [item.with_(group=None) for item in collector.items]
    elif grouping.column is None and told:
        return [f"Images are grouped by the patients that their files name: {len(told)} groups."]
    return list(grouping.notes)


def _captioned(target: Target | None, captions: Any) -> Target | None:
    """The target of a row that may have captions besides its label."""
    if target is None or not captions:
        return target
    if isinstance(target, Number):
        return target
    texts = tuple(captions) if isinstance(captions, list) else (str(captions).strip(),)
    return Captions(texts, target.class_label())
