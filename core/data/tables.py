"""Tables: CSV, TSV, JSONL, JSON lists and Parquet as rows that know where they stand."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..contracts.items import Columns
from ..errors import DataError, UnknownNameError, shortened
from ..runtime.reading import check_regular, parse_json, read_text

PARQUET = ".parquet"
MOST_COLUMNS, MOST_ROWS = 100_000, 20_000_000
FORMULA = re.compile(r"'*[=+\-@\t\n]")
"""How a cell begins that a spreadsheet may calculate, after any quotes that say it is a text."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One line: values by column name, and "labels.csv line 3"."""

    values: dict[str, Any]
    place: str

    def text(self, column: str | None) -> str:
        """The value as stripped text, "" where there is none."""
        value = self.values.get(column)
        return "" if value is None else str(value).strip()


@dataclass(frozen=True)
class Table:
    """Rows, and the names of their columns in order.

    Class attributes:
        SUFFIXES: of files that hold one.
        IMAGE, LABEL, SPLIT: usual names of columns.
    """

    SUFFIXES: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".jsonl", ".json")
    IMAGE: ClassVar[tuple[str, ...]] = (
        *("image", "path", "image_path", "file", "filename", "file_name", "filepath"),
        "image_index",
    )
    LABEL: ClassVar[tuple[str, ...]] = ("label", "labels", "class", "class_name", "category", "finding_labels")
    SPLIT: ClassVar[tuple[str, ...]] = ("split", "set", "subset", "partition")

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]

    def column_of(self, names: Sequence[str]) -> str | None:
        """The first of some usual names that the table has, in any case and with any separators; None for none."""
        plain = map(self.plain_name, names)
        return next((self._by_plain_name[name] for name in plain if name in self._by_plain_name), None)

    def has_column(self, name: str) -> bool:
        """Whether `column_named` finds one."""
        return name in self.columns or self.column_of([name]) is not None

    def column_named(self, name: str, option: str) -> str:
        """The column that a user names, as written or in another case.

        Args:
            option: by which it is named, for the message: "group_column".

        Raises:
            UnknownNameError: there is none; the message lists those there are.
        """
        if name in self.columns:
            return name
        column = self.column_of([name])
        if column is None:
            flag = option.replace("_", "-")
            raise UnknownNameError(
                f"--{flag} {name}: {self.path} has no such column; it has: {', '.join(map(str, self.columns))}"
            )
        return column

    @staticmethod
    def plain_name(column: str) -> str:
        """A column's name in lower case, letters and digits alone: "patientid" for "Patient ID" and "patient-id"."""
        return "".join(sign for sign in str(column).casefold() if sign.isalnum())

    @staticmethod
    def columns_reader(tables: Sequence[tuple[Path, Mapping[str, int], Iterable[str | None]]]) -> Callable[[], Columns]:
        """What reads the columns that all of some tables have, one or more, each of samples of its own.

        Args:
            tables: of each its file, and `row_of` and `taken` as of `columns_of`.
        """

        def read() -> Columns:
            parts = [columns_of(read_table(path), row_of, taken) for path, row_of, taken in tables]
            names = tuple(name for name in parts[0].names if all(name in part.names for part in parts))
            taken = set().union(*(part.taken for part in parts))

            def cells(name: str) -> dict[str, str]:
                return {id_: cell for part in parts for id_, cell in part.cells(name).items()}

            return Columns(", ".join(part.place for part in parts), names, taken, cells)

        return read

    @cached_property
    def _by_plain_name(self) -> dict[str, str]:
        return {self.plain_name(column): column for column in reversed(self.columns)}


def columns_of(table: Table, row_of: Mapping[str, int], taken: Iterable[str | None]) -> Columns:
    """What a table says of samples.

    Args:
        row_of: id of a sample -> position of its row.
        taken: columns that hold the image or its labels.
    """

    def cells(name: str) -> dict[str, str]:
        return {id_: table.rows[row].text(name) for id_, row in row_of.items()}

    return Columns(table.path.name, table.columns, {name for name in taken if name is not None}, cells)


def read_table(path: Path) -> Table:
    """A table with a header row, or one JSON object per row, also packed as .gz; or Parquet, of which columns of lists,
    structures and bytes are left out.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or malformed; the message names the line.
    """
    if path.suffix.lower() == PARQUET:
        return _read_parquet(path)
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: empty file; give a header row and one row per image")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix.startswith(".json"):
        rows = _json_rows(path, text, whole=suffix == ".json")
        columns = dict.fromkeys(column for row in rows for column in row.values)
    else:
        columns, rows = _csv_rows(path, text, suffix)
    if not rows:
        raise DataError(f"{path}: no rows below the header; give one row per image")
    return Table(path, tuple(dict.fromkeys(columns)), rows)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular(path)
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{path}: has {file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}; divide it")
            kinds = {field.name: field.type for field in file.schema_arrow}
            columns = [name for name, kind in kinds.items() if not (pa.types.is_nested(kind) or _is_bytes(kind))]
            listed = file.read(columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged table ({shortened(' '.join(str(error).split()))}); get it again") from None
    if not listed or not columns:
        raise DataError(f"{path}: no rows with numbers or texts; give one row per image")
    return Table(path, tuple(columns), [Row(row, f"{path} row {n}") for n, row in enumerate(listed, 1)])


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _csv_rows(path: Path, text: str, suffix: str) -> tuple[list[str], list[Row]]:
    """The columns, and the rows, which have no value for the cells that a short line lacks."""
    header = text.lstrip().splitlines()[0]
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows, columns = [], None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            cells = [cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell for cell in cells]
            if columns is None:
                columns = [cell.strip() for cell in cells]
                if len(columns) > MOST_COLUMNS:
                    raise DataError(f"{path}: has {len(columns):,} columns, more than {MOST_COLUMNS:,}; divide it")
                continue
            place = f"{path} line {reader.line_num}"
            if len(cells) > len(columns) and any(cell.strip() for cell in cells[len(columns) :]):
                raise DataError(f"{place}: {len(cells)} cells, {len(columns)} columns; quote cells with {delimiter!r}")
            rows.append(Row(dict(zip(columns, cells, strict=False)), place))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not a table ({error}); correct the line") from error
    return columns or [], rows


def _json_rows(path: Path, text: str, whole: bool) -> list[Row]:
    if whole:
        content = parse_json(path, text)
        if not isinstance(content, list):
            raise DataError(f"{path}: not a list of objects; give one object per image, or a split_zhou or COCO file")
        listed = [(f"{path} entry {n}", entry) for n, entry in enumerate(content, 1)]
    else:
        lines = [(f"{path} line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        listed = [(place, parse_json(place, line)) for place, line in lines]
    for place, entry in listed:
        if not isinstance(entry, dict):
            raise DataError(f"{place}: not a JSON object; give one object per image")
    return [Row(entry, place) for place, entry in listed]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as `read_table` reads it. Texts that a spreadsheet would take for a formula are kept from that by a quote
    before them, which `read_table` removes; numbers stay as they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_as_text(cell) for cell in row] for row in (columns, *rows))
    return text.getvalue()


def _as_text(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")  # as it is read; csv quotes no "\r" before Python 3.13
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell
