"""Which column of a table says what belongs together: patients, subjects, studies, known by the usual names of columns.

Images of one patient must not stand on two sides of a split, so the column is sought even where nobody names it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from ..contracts.groups import OpenGroups
from ..contracts.items import Columns, DomainData
from ..errors import ConfigError, DataError, UnknownNameError, printable
from .files import visible
from .group_names import GroupNames
from .group_words import KINDS, is_split_word, kind_of_column
from .tables import Table, columns_of, read_table

OPTION = "group_column"
AUTO, NONE = "auto", "none"
"""What the option is set to where the column is to be found, and where nothing is to be grouped."""
COLUMN = "column:"
"""Before the name of a column that is called as another value of the option."""
UNKNOWN = frozenset(
    {"", "-", "-1", "?", "nan", "na", "n/a", "none", "null", "nil", "unknown", "anon", "anonymous", "removed"}
)
"""Values that name nobody, in lower case."""
LEAST_VALUES = 3
LABELS_AND_SPLITS = frozenset(map(Table.plain_name, (*Table.IMAGE, *Table.LABEL, *Table.SPLIT)))
MOST_COLUMNS = 200
"""Of a table, that are looked at for values that repeat."""
MOST_BYTES = 100 << 20
"""Of a table beside class folders that is looked into."""
LEAST_SHARE = 0.5
"""Share of the images that a table beside them must list to be taken for theirs."""


@dataclass(frozen=True)
class Grouping:
    """What belongs together.

    Args:
        groups: of each row a hash, None where it has no value: a patient's name goes no further.
        column: the column that says so, or None.
        notes: sentences for the user.
    """

    groups: Sequence[str | None]
    column: str | None = None
    notes: tuple[str, ...] = ()


def group_rows(
    table: Table,
    images: Sequence[str],
    classes: Sequence[Collection[Hashable]],
    *,
    taken: Collection[str | None] = (),
    named: str = AUTO,
    few: bool = False,
) -> Grouping:
    """The groups of a table's rows.

    Patient-like columns are preferred to subject-like, these to study-like ones, and of a kind the one with the fewest
    groups; a coarser column that holds the groups of the preferred one whole takes its place. A column with two values
    or fewer, without repeats, or with one group per class does not count.

    Args:
        table: N rows.
        images: what each row is about; rows of one image are no repeats.
        classes: of each row, none or more.
        taken: columns that hold something else.
        named: the column that the user names, which need not qualify; "auto" to find it, "none" for no groups; "folder"
            or "stem:REGEX" for what the names of the images say (`group_names.py`).
        few: the rows may be of one group or two, or each of its own, as where a few images are to be answered.

    Raises:
        UnknownNameError: the table has no column of that name.
        ConfigError: the names of the images say nothing of groups.
    """
    if named == NONE:
        return Grouping([None] * len(images), notes=("Nothing is grouped, as --group-column none says.",))
    if GroupNames.are_named_by(named):
        return group_by_names(images, classes, named)
    if named != AUTO:
        column = table.column_named(named.removeprefix(COLUMN), OPTION)
        return _grouping(_Column(table, column, images), f"column '{column}'")
    candidates = [
        _Column(table, name, images) for name in table.columns if name not in taken and kind_of_column(name) is not None
    ]
    reasons = {column.name: column.why_not(classes, few) for column in candidates}
    usable = [column for column in candidates if not reasons[column.name]]
    if not usable:
        return Grouping([None] * len(images), notes=(_nothing_found(table, reasons),))
    chosen = _coarsest(usable)
    grouping = _grouping(chosen, f"column '{chosen.name}'")
    return replace(grouping, notes=(*grouping.notes, *_otherwise(chosen, usable)))


class _Column:
    """The values of one column as numbers, -1 for none."""

    def __init__(self, table: Table, name: str, images: Sequence[str]):
        self.name = name
        self.values = [_value(row.values.get(name)) for row in table.rows]
        number = {value: n for n, value in enumerate(dict.fromkeys(v for v in self.values if v is not None))}
        self.codes = np.array([-1 if value is None else number[value] for value in self.values], dtype=np.int64)
        self.count = len(number)
        self.images = len({image for image, value in zip(images, self.values, strict=True) if value is not None})

    def why_not(self, classes: Sequence[Collection[Hashable]], few: bool) -> str:
        """Why it does not count, or ""; `few` as of `group_rows`."""
        if few and self.count:
            return ""
        if self.count < LEAST_VALUES:
            return f"{self.count} value{'s' if self.count != 1 else ''}"
        if self.count >= self.images:
            return "no value twice"
        groups_of: dict[Hashable, set[int]] = {}
        for some, code in zip(classes, self.codes.tolist(), strict=True):
            for each in some if code >= 0 else ():
                groups_of.setdefault(each, set()).add(code)
        is_class = bool(groups_of) and all(len(groups) == 1 for groups in groups_of.values())
        return "one group per class" if is_class else ""

    def lies_in(self, other: _Column) -> bool:
        """Whether each of its groups lies in one group of the other."""
        both = (self.codes >= 0) & (other.codes >= 0)
        pairs = np.unique(np.stack([self.codes[both], other.codes[both]]), axis=1)
        return pairs.shape[1] == len(np.unique(self.codes[both]))

    def covers(self, other: _Column) -> bool:
        """Whether it has a value wherever the other has one."""
        return bool((self.codes >= 0)[other.codes >= 0].all())


def group_of(cell: object) -> str | None:
    """The group that a value names, as a hash; None for a value that names nobody."""
    return hashed(_value(cell))


def _value(cell: object) -> str | None:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = "" if cell is None else str(cell).strip()
    return None if text.lower() in UNKNOWN else text


def _coarsest(usable: Sequence[_Column]) -> _Column:
    order = list(KINDS)
    preferred = min(usable, key=lambda column: (order.index(kind_of_column(column.name)), column.count))
    wider = [column for column in usable if preferred.lies_in(column) and column.covers(preferred)]
    return min(wider, key=lambda column: (column.count, column is not preferred))


def _grouping(column: _Column, words: str) -> Grouping:
    notes = [f"Images are grouped by {words}: {column.count} groups, none of them divided between splits."]
    if without := len({n for n, code in enumerate(column.codes.tolist()) if code < 0}):
        notes.append(f"Rows without a value in {words}, each a group of its own: {without}.")
    return Grouping([hashed(value) for value in column.values], column.name, tuple(notes))


def hashed(value: str | None) -> str | None:
    """What stands for a group, so that the name of a patient goes no further."""
    return None if value is None else hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:16]


def _otherwise(chosen: _Column, usable: Sequence[_Column]) -> list[str]:
    """A warning for each further column whose groups are divided among those of the chosen one."""
    return [
        f"Warning: column '{other.name}' ({other.count} groups) would group them differently: some of its groups lie "
        f"in several of '{chosen.name}'. --group-column {quoted(other.name)} groups by that column instead."
        for other in usable
        if other is not chosen and not other.lies_in(chosen)
    ]


def quoted(name: str) -> str:
    """The name of a column as it is typed behind --group-column."""
    name = f"{COLUMN}{name}" if name in (AUTO, NONE) or GroupNames.are_named_by(name) else name
    return f'"{name}"' if " " in name else name


def _nothing_found(table: Table, reasons: Mapping[str, str]) -> str:
    beside = f" ({', '.join(f'{name}: {reason}' for name, reason in reasons.items())})" if reasons else ""
    return (
        f"No column of {table.path.name} groups images by patient, subject or study{beside}, so each image is drawn by "
        "itself. If images belong together, name their column with --group-column."
    )


def group_by_names(names: Sequence[str], classes: Sequence[Collection[Hashable]], named: str) -> Grouping:
    """The groups that the names of images say, as `GroupNames.values`, as hashes with a note.

    Raises:
        ConfigError: as there.
    """
    values = GroupNames(named).values(names, classes)
    count, without = len(set(values) - {None}), values.count(None)
    notes = [f"Images are grouped by --group-column {named}: {count} groups, none of them divided between splits."]
    if without:
        notes.append(f"Images whose names say no group, each a group of its own: {without}.")
    return Grouping([hashed(value) for value in values], named, tuple(notes))


def group_by_tables_beside(data: DomainData, folder: Path, named: str = AUTO, few: bool = False) -> DomainData:
    """The set, its items grouped by a table that lies in their folder and lists them, and the columns of that table.

    Args:
        data: items whose ids are paths relative to the folder.
        folder: of the set.
        named: the column that the user names; "auto" to find it, "none" for no groups at all.
        few: as of `group_rows`.

    Raises:
        UnknownNameError: no table there lists these images and has a column of that name.
    """
    ids = [item.id for item in data.items]
    data = replace(data, columns=lambda: columns_beside(folder, ids))
    if named == NONE:
        alone = data.with_items([item.with_(group=None) for item in data.items])
        return replace(alone, notes=[*data.notes, "Nothing is grouped, as --group-column none says."])
    if GroupNames.are_named_by(named):
        grouping = group_by_names(ids, [item.classes() for item in data.items], named)
        pairs = zip(data.items, grouping.groups, strict=True)
        named_so = data.with_items([item.with_(group=group) for item, group in pairs])
        return replace(named_so, notes=[*data.notes, *grouping.notes])
    named, tables = named.removeprefix(COLUMN), _tables_in(folder)
    for table in tables:
        listed = _rows_by_item(ids, table)
        if listed is None or (named != AUTO and not table.has_column(named)):
            continue
        rows, items = listed
        part = replace(table, rows=[table.rows[row] for row in rows])
        listed_items = [data.items[item] for item in items]
        classes = [item.classes() for item in listed_items]
        listed_ids = [ids[item] for item in items]
        grouping = group_rows(part, listed_ids, classes, named=named, few=few)
        if grouping.column is None and any(item.group for item in data.items):
            continue
        group_of = dict(zip(items, grouping.groups, strict=True))
        grouped = [item.with_(group=group_of.get(n) or item.group) for n, item in enumerate(data.items)]
        notes = [note.replace("column '", f"{table.path.name}, column '", 1) for note in grouping.notes]
        found = replace(data.with_items(grouped), notes=[*data.notes, *notes])
        return found if grouping.column else replace(found, open_groups=open_groups(part, listed_ids, note=notes[0]))
    if named != AUTO:
        columns = [f"{table.path.name} has {', '.join(map(str, table.columns))}" for table in tables]
        raise UnknownNameError(
            f"--{OPTION.replace('_', '-')} {named}: no table in {folder} lists these images and has such a column; "
            + (
                "; ".join(columns)
                or "put a .csv with their file names and this column there, or give folder or stem:REGEX"
            )
        )
    return data if any(item.group for item in data.items) else replace(data, open_groups=OpenGroups())


def group_images(data: DomainData, paths: Sequence[str | Path], named: str) -> DomainData:
    """Images of files and folders, grouped as `group_by_tables_beside` groups those of a set.

    Args:
        data: items whose ids begin with the paths.
        paths: as the user gives them.
        named: as there.

    Raises:
        ConfigError: nothing says which images belong together. UnknownNameError: as there.
    """
    items, notes = {item.id: item for item in data.items}, list(data.notes)
    for folder in dict.fromkeys(path if path.is_dir() else path.parent for path in map(Path, paths)):
        above = "" if folder == Path() else f"{printable(folder.as_posix()).rstrip('/')}/"
        own = [item.with_(id=item.id.removeprefix(above)) for item in items.values() if item.id.startswith(above)]
        grouped = group_by_tables_beside(replace(data, items=own, notes=[]), folder, named, few=True)
        items |= {above + item.id: item.with_(id=above + item.id) for item in grouped.items}
        notes += grouped.notes
    if not any(item.group for item in items.values()):
        raise ConfigError(
            "nothing says which images belong together; put a table of their file names and patients beside them, or "
            "give --group-column with its column, folder or stem:REGEX"
        )
    return replace(data, items=list(items.values()), notes=notes)


def open_groups(
    table: Table, ids: Sequence[str | None], taken: Collection[str | None] = (), note: str = ""
) -> OpenGroups:
    """The columns of a table that may say what belongs together, though their names do not.

    Args:
        table: N rows.
        ids: of the item of each row, None where it has none.
        taken: columns that hold something else.
        note: the sentence of the reader that holds if none does.
    """
    columns: dict[str, dict[str, str]] = {}
    for name in table.columns[:MOST_COLUMNS]:
        plain = Table.plain_name(name)
        if name in taken or plain in LABELS_AND_SPLITS or is_split_word(plain):
            continue
        values = [_value(row.values.get(name)) for row in table.rows]
        different = {value for value in values if value is not None}
        if LEAST_VALUES <= len(different) < len(values) and not any(map(_is_measure, different)):
            number = {value: str(n) for n, value in enumerate(sorted(different))}
            pairs = zip(ids, values, strict=True)
            columns[name] = {i: number[value] for i, value in pairs if i is not None and value is not None}
    return OpenGroups(columns, note)


def _is_measure(value: str) -> bool:
    """Whether a value is a number with a fraction, which is measured and names nobody."""
    return re.fullmatch(r"[+-]?\d*[.,]\d+(e[+-]?\d+)?", value, re.IGNORECASE) is not None


def _tables_in(folder: Path) -> list[Table]:
    tables = []
    for name in sorted(entry.name for entry in visible(folder)):
        file = folder / name
        if file.suffix.lower() in Table.SUFFIXES[:3] and file.is_file() and file.stat().st_size <= MOST_BYTES:
            try:
                tables.append(read_table(file))
            except DataError:  # no table of images, then: the set is read without it
                continue
    return tables


def columns_beside(folder: Path, ids: Sequence[str]) -> Columns | None:
    """What the first table in a folder says that lists its images."""
    for table in _tables_in(folder):
        if (listed := _rows_by_item(ids, table)) is not None:
            taken = map(table.column_of, (Table.IMAGE, Table.LABEL))
            return columns_of(table, {ids[place]: row for row, place in zip(*listed, strict=True)}, taken)
    return None


def _rows_by_item(ids: Sequence[str], table: Table) -> tuple[list[int], list[int]] | None:
    """(rows, positions of the items they list), by the column whose values are most often names of the images."""
    item_of = _names_of_items(ids)
    best: dict[int, int] = {}
    for column in table.columns:
        found: dict[int, int] = {}
        for number, row in enumerate(table.rows):
            name = row.text(column).replace("\\", "/").removeprefix("./")
            place = item_of.get(name, item_of.get(PurePosixPath(name).name)) if name else None
            if place is not None:
                found.setdefault(place, number)
        best = max(best, found, key=len)
    if len(best) < max(1, LEAST_SHARE * len(ids)):
        return None
    return list(best.values()), list(best)


def _names_of_items(ids: Sequence[str]) -> dict[str, int]:
    """Path, file name and stem -> position of the item, as far as each means one item."""
    places: dict[str, set[int]] = {}
    for position, id_ in enumerate(ids):
        path = PurePosixPath(id_)
        for name in {id_, path.name, path.stem}:
            places.setdefault(name, set()).add(position)
    return {name: next(iter(some)) for name, some in places.items() if len(some) == 1}
