"""Pairs listed in a table: CSV, TSV, JSONL, or a JSON list of objects, one image and its texts per row.

Tables may be of any size: their rows are read one at a time, each with its line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...runtime.reading import parse_json, text_lines
from ..files import licence_of
from ..group_columns import AUTO, COLUMN, LEAST_VALUES, NONE, OPTION, group_of
from ..group_words import preferred_column
from ..tables import Table
from .builder import PairBuilder
from .file_finder import FileFinder
from .pair_set import PairSet
from .record_fields import COLUMNS, BrokenRow, RecordColumns, cleaned

DELIMITERS = ",;\t|"
END = "\x1fend of table\x1f"
"""A line put behind the last: a reader that does not see it was still inside of quotes."""

Rows = Iterator[tuple[int, dict[str, Any]]]


def read_table_pairs(
    path: Path,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    root: Path | None = None,
    rewrites: Sequence[Path] = (),
    rows: Rows | None = None,
    columns: Mapping[str, str] | None = None,
    group_column: str = AUTO,
) -> PairSet:
    """The pairs of a table. Rows of the same image become one, with all their captions.

    Args:
        path: the table; columns are found by their usual names (`COLUMNS`), whatever their case.
        image_column, caption_column: their names where they are unusual.
        root: folder that images are relative to; by default the table's own, then `images/` in it.
        rewrites: text files with one caption per line, line n for the table's n-th row: field "synthetic", as LaCLIP
            (2023, arXiv 2305.20088) stores its rewrites.
        rows: (place, values) of each row, where they are at hand already.
        columns: further columns that are kept -> what they hold: "text", "numbers" or "image".
        group_column: the column of what belongs together; "auto" to find it by the usual names (`group_columns.py`),
            "none" for no groups.

    Raises:
        UnknownNameError: there is no such column.
        DataError: a file is malformed, a column is missing, rewrites and rows differ in number, an image leaves the
            folder, or no row can be used.
    """
    base = root or path.parent
    finder = FileFinder(base, [base, base / "images"])
    builder = PairBuilder(base, path)
    reader = _RowReader(path, image_column, caption_column, columns or {}, group_column)
    lines = [_Lines(file) for file in rewrites]
    for line, record in rows if rows is not None else table_rows(path):
        more = [next_line for source in lines if (next_line := source.next(path))]
        try:
            _add(builder, finder, reader.columns(record, line), record, more, line, reader.group(record))
        except BrokenRow as error:
            builder.skip(f"{path.name} line {line}", str(error))
    for source in lines:
        source.check_end(path)
    return _grouped(builder.build(name=path.stem, licence=licence_of(path.parent)), reader.group_column, group_column)


class _RowReader:
    """Finds the columns of each row; a JSONL file's rows need not all have the same."""

    def __init__(
        self, path: Path, image: str | None, caption: str | None, further: Mapping[str, str], group: str = AUTO
    ):
        self._path, self._given, self._further, self._group = path, (image, caption), further, group
        self.group_column: str | None = None
        self._names: tuple[str, ...] | None = None
        self._columns = RecordColumns([])

    def columns(self, record: dict[str, Any], line: int) -> RecordColumns:
        names = tuple(record)
        if names != self._names:
            first = self._names is None
            self._names, self._columns = names, RecordColumns(names, *self._given, self._further)
            if first:
                self._check(names, line)
                self.group_column = self._column_of_groups(names)
        return self._columns

    def group(self, record: dict[str, Any]) -> int:
        """A number for what the row belongs to, 0 for nothing."""
        group = None if self.group_column is None else group_of(record.get(self.group_column))
        return 0 if group is None else int(group, 16)

    def _column_of_groups(self, names: tuple[str, ...]) -> str | None:
        if self._group == NONE:
            return None
        if self._group == AUTO:
            # a person may be the class too
            others = {column for field, column in self._columns.of.items() if field != "label"}
            return preferred_column(name for name in names if name not in others)
        return Table(self._path, names, []).column_named(self._group.removeprefix(COLUMN), OPTION)

    def _check(self, names: tuple[str, ...], line: int) -> None:
        for field, given in zip(("image", "caption"), self._given, strict=True):
            if field not in self._columns.of:
                wanted = f"'{given}'" if given is not None else f"{field} ({', '.join(COLUMNS[field][:4])}, ...)"
                raise DataError(
                    f"{self._path} line {line}: no column {wanted}; it has: {', '.join(names)}; "
                    f"name the right one as {field}_column"
                )


class _Lines:
    """The lines of a file of rewrites, in step with the rows of the table."""

    def __init__(self, path: Path):
        self._path, self._count = path, 0
        self._lines = text_lines(path)

    def next(self, table: Path) -> str:
        line = next(self._lines, None)
        if line is None:
            raise DataError(f"{self._path}: {self._count} lines, but {table.name} has more rows; give one line per row")
        self._count += 1
        return cleaned(line)

    def check_end(self, table: Path) -> None:
        if any(line.strip() for line in self._lines):
            raise DataError(
                f"{self._path}: more lines than the {self._count} rows of {table.name}; give one line per row"
            )


def _grouped(pairs: PairSet, column: str | None, asked: str) -> PairSet:
    """The pairs with a note on their groups; a column found by its name alone counts where it divides and repeats."""
    if column is None:
        return pairs
    groups = pairs.columns.groups
    count, rows = (0, 0) if groups is None else (len(np.unique(groups[groups > 0])), int((groups > 0).sum()))
    if asked == AUTO and not LEAST_VALUES <= count < rows:
        return replace(pairs, columns=replace(pairs.columns, groups=None))
    return replace(pairs, notes=[*pairs.notes, f"Images are grouped by column '{column}': {count} groups."])


def _add(
    builder: PairBuilder,
    finder: FileFinder,
    columns: RecordColumns,
    record: dict[str, Any],
    rewrites: list[str],
    line: int,
    group: int,
) -> None:
    place = f"{builder.listed_in} line {line}"
    listed = columns.word(record, "image")
    if not listed:
        raise BrokenRow("names no image")
    captions = columns.texts(record, "caption")
    if not captions:
        raise BrokenRow(f"{listed}: empty caption")
    name, reason = finder.find(listed, place)
    if reason:
        raise BrokenRow(f"{listed}: {reason}")
    texts = columns.further_texts(record)
    if rewrites:
        texts["synthetic"] = [*texts.get("synthetic", ()), *rewrites]
    builder.add(
        name,
        captions,
        texts=texts,
        negative_image=_file(finder, "negative image", columns.word(record, "negative_image"), place),
        label=columns.word(record, "label"),
        split=columns.split(record, place),
        place=line,
        numbers=columns.further_numbers(record),
        images={name: _file(finder, name, file, place) for name, file in columns.further_images(record).items()},
        group=group,
    )


def _file(finder: FileFinder, what: str, listed: str, place: str) -> str:
    """The file of a further image, "" for none."""
    if not listed:
        return ""
    name, reason = finder.find(listed, place)
    if reason:
        raise BrokenRow(f"{what} {listed}: {reason}")
    return name


def table_rows(path: Path) -> Rows:
    """(line, values by column name) of each row, as the suffix says: a table with a header, or one object per line.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or is malformed; the message names the line.
    """
    return _json_rows(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path)


def _csv_rows(path: Path) -> Rows:
    lines = (line.replace("\0", "") for line in text_lines(path))
    before, header_line = _first_line(path, lines)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=header_line.count)
    reader = csv.reader(chain([header_line], lines, [END]), delimiter=delimiter)
    columns: list[str] | None = None
    while True:
        line = before + reader.line_num + 1
        cells = _next_cells(path, reader, line)
        if cells == [END]:
            return
        if END in "".join(cells[-1:]):
            raise DataError(f"{path} line {line}: a quote opens here and never closes; close it, or double it")
        if columns is None:
            columns = [cell.strip() for cell in cells]
        elif any(cell.strip() for cell in cells):
            yield line, _named(path, line, columns, cells, delimiter)


def _first_line(path: Path, lines: Iterator[str]) -> tuple[int, str]:
    """Number of blank lines at the beginning, and the line after them."""
    for before, line in enumerate(lines):
        if line.strip():
            return before, line
    raise DataError(f"{path}: empty file; give a header row and one row per image")


def _next_cells(path: Path, reader: Iterator[list[str]], line: int) -> list[str]:
    try:
        return next(reader)
    except csv.Error as error:
        raise DataError(
            f"{path} line {line}: not a row of a table ({error}); close its quotes, and double those inside of cells"
        ) from error


def _named(path: Path, line: int, columns: list[str], cells: list[str], delimiter: str) -> dict[str, Any]:
    if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
        raise DataError(
            f"{path} line {line}: {len(cells)} cells, {len(columns)} columns; quote cells with {delimiter!r}"
        )
    return dict(zip(columns, cells + [""] * (len(columns) - len(cells))))


def _json_rows(path: Path) -> Rows:
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        row = parse_json(f"{path} line {number}", line)
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number}: not a JSON object; give one object per image")
        yield number, row
