"""Rows of CSV, TSV and JSONL files of any size, one at a time, each with its line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...runtime.reading import parse_json, text_lines

DELIMITERS = ",;\t|"
END = "\x1fend of table\x1f"
"""A line put behind the last: a reader that does not see it was still inside of quotes."""

Rows = Iterator[tuple[int, dict[str, Any]]]


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
