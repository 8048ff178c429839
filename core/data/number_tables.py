"""Tables with a number per image: heights, ages, shares, counts.

The column is the one that `--target-column` names, or else one of the usual names. A cell is a number with a decimal
point; an empty one, and NaN, say that the image has none. Anything else is refused with its place: a number that is
read wrongly teaches without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..contracts.domain import NumberReading, Reading
from ..contracts.items import DomainData, Number
from ..errors import ConfigError, DataError, shortened
from .detect import MANIFEST_STEMS
from .files import Format, visible
from .images import IMAGE
from .manifests import NUMBERS, TableColumns, data_of_table
from .row_labels import RowLabels
from .tables import NUMBER, PARQUET, Row, Table, read_table

USUAL = ("target", "targets", "value", "number", "y")
"""Names of the column, the first of which a table has is taken."""
OF_THINGS = (
    *("height", "canopy_height", "age", "count", "share", "score", "weight", "area", "volume", "depth", "distance"),
    *("biomass", "yield", "temperature", "price", "elevation", "density", "bone_age", "ejection_fraction"),
)
"""Further names, one of which is taken where a table has only that."""
NO_NUMBER = frozenset({"", "nan", "none", "null"})
TABLES = (".csv", ".tsv", ".jsonl", PARQUET)
TAKEN = ("root", "group_column", "max_pixels")
"""Options of `Reading` that apply."""


def read_numbers(
    path: str | Path, formats: Sequence[Format] = (IMAGE,), reading: NumberReading | None = None
) -> DomainData:
    """Images with a number each (`Number`), of a table with one image a row; groups and splits as of manifests.

    Args:
        path: the table (csv, tsv, jsonl, parquet, or json with a list of objects), or a folder with it.
        formats: what counts as an image.
        reading: options; of a domain's own reading those of `NumberReading` count.

    Raises:
        DataError: no such table, no column of numbers, a cell that is no number, or fewer than two images with one.
        UnknownNameError: there is no column of a given name. ConfigError: an option that does not apply.
    """
    reading, path = reading or NumberReading(), Path(path)
    for each in fields(Reading):
        if each.name not in TAKEN and getattr(reading, each.name) != each.default:
            flag = each.name.replace("_", "-")
            raise ConfigError(f"--{flag}: does not apply to regression, which reads a table of numbers; omit it")
    table = read_table(_table_in(path))
    column = _target_column(table, reading.target_column)
    targets = [_number(row, column) for row in table.rows]
    columns = TableColumns(table, column, reading.group_column)
    labels = RowLabels((), NUMBERS, targets)
    data = data_of_table(table, columns, labels, formats, reading.root, reading.group_column)
    if len(data.items) < 2:
        raise DataError(f"{table.path}: {len(data.items)} image with a number in column '{column}'; give two or more")
    data.number_names = {Number.NAME: (column,)}
    return data


def _table_in(path: Path) -> Path:
    """The table itself, or that of a folder."""
    if not path.is_dir():
        if not path.is_file():
            raise DataError(
                f"{path}: no such file or folder; give a table with a number per image (csv, tsv, jsonl, parquet)"
            )
        if Path(path.name.removesuffix(".gz")).suffix.lower() not in (*Table.SUFFIXES, PARQUET):
            raise DataError(f"{path}: not a table; give one with a number per image (csv, tsv, jsonl, parquet)")
        return path
    tables = sorted(entry.name for entry in visible(path) if Path(entry.name).suffix.lower() in TABLES)
    named = [name for name in tables if Path(name).stem.lower() in MANIFEST_STEMS]
    chosen = named if len(named) == 1 else tables
    if len(chosen) != 1:
        cure = (
            f"it has {', '.join(tables)}; give one of them" if tables else "add one with an image and a number per row"
        )
        raise DataError(
            f"{path}: regression reads a table (csv, tsv, jsonl, parquet), and the folder has {len(tables)}: {cure}"
        )
    return path / chosen[0]


def _target_column(table: Table, named: str | None) -> str:
    if named is not None:
        return table.column_named(named, "target_column")
    if (column := table.column_of(USUAL)) is not None:
        return column
    several = list(dict.fromkeys(column for name in OF_THINGS if (column := table.column_of([name])) is not None))
    if len(several) == 1:
        return several[0]
    numeric = ", ".join(f"'{column}'" for column in table.columns if _is_numeric(table, column)) or "none"
    fault = f"{' and '.join(several)} could each be the number" if several else "no column is called as a number is"
    raise DataError(f"{table.path}: {fault}; choose with --target-column. Columns of numbers: {numeric}")


def _is_numeric(table: Table, column: str) -> bool:
    texts = [text for row in table.rows if (text := row.text(column)).lower() not in NO_NUMBER]
    return bool(texts) and all(NUMBER.fullmatch(text) for text in texts)


def _number(row: Row, column: str) -> Number | None:
    """None where the cell says that there is none."""
    cell: Any = row.values.get(column)
    text = row.text(column)
    if text.lower() in NO_NUMBER:
        return None
    value = float(text) if not isinstance(cell, (bool, list, dict)) and NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise DataError(f"{row.place}: '{shortened(text)}' in column '{column}' is not a number; {_cure(text)}")
    return Number(value)


def _cure(text: str) -> str:
    pointed = text.replace(",", ".")
    if pointed != text and NUMBER.fullmatch(pointed):
        return f"write {pointed}"
    first = text.split()[0] if text.split() else ""
    if first != text and NUMBER.fullmatch(first):
        return f"write {first}, without its unit"
    return "give a number such as 12.5, or leave the cell empty where there is none"
