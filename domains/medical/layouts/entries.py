"""What a published set says of each image, whatever the form of its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ....core.contracts import Target
from ....core.data import Row, Table
from ....core.errors import DataError


@dataclass(frozen=True)
class LayoutEntry:
    """One image, or one phrase about an image.

    Args:
        image: its path below the set's folder, or its file's name, with or without an ending.
        target: what is known of it.
        patient: as the table writes it, None where it does not tell.
        split: "train", "val", "test", or "" where nothing says.
        study: what the images of one examination have in common, or "".
        view: the position as the table writes it, or "".
        row: (table, position in it) of the row that is about this image, where there is one.
    """

    image: str
    target: Target
    patient: str | None = None
    split: str = ""
    study: str = ""
    view: str = ""
    row: tuple[Path, int] | None = None


@dataclass(frozen=True)
class Annotated:
    """A set as its tables have it.

    Args:
        class_names: in the order of the targets.
        entries: in the order of the tables.
        kind: of `DomainData`.
        notes: sentences for the user.
    """

    class_names: tuple[str, ...]
    entries: Sequence[LayoutEntry]
    kind: str = "multilabel"
    notes: list[str] = field(default_factory=list)


def row_numbers(row: Row, *columns: str) -> list[float]:
    """The numbers in some columns of a row.

    Raises:
        DataError: one of them is none.
    """
    try:
        values = [float(row.text(column)) for column in columns]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise DataError(f"{row.place}: {', '.join(columns)} are not numbers; correct the line")
    return values


def check_table_columns(table: Table, *names: str) -> None:
    """Raise the DataError of a table that lacks a column."""
    if missing := [name for name in names if name not in table.columns]:
        raise DataError(f"{table.path}: has no column '{missing[0]}'; get the published file")
