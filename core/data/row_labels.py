"""What the rows of a table say about classes: one label, several, or one indicator column per class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..contracts.items import Label, Labels, Target
from ..errors import DataError, did_you_mean, shortened
from ..runtime.reading import MOST_DIGITS, parse_json
from .tables import Row

NAMED = 4  # columns in a note
INDICATORS = {"1": 1.0, "1.0": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0}
UNKNOWN = dict.fromkeys(("", "nan", "na", "-1", "-1.0"), float("nan"))


@dataclass(frozen=True)
class RowLabels:
    """Class names, kind of set, and for each row the target of its item, or None where it has no label."""

    class_names: tuple[str, ...]
    kind: str
    per_row: Sequence[Target | None]
    notes: tuple[str, ...] = ()


def labels_of_cells(rows: Sequence[Row], column: str, class_names: Sequence[str] | None) -> RowLabels:
    """From a column of labels; the set has several labels per image if any row has more than one.

    Raises:
        DataError: a label is not in `class_names`.
    """
    named = [_names_in(row.values.get(column)) for row in rows]
    occurring = {name for names in named for name in names or ()}
    classes = tuple(class_names) if class_names is not None else _in_order(occurring)
    index = {name: position for position, name in enumerate(classes)}
    if class_names is not None:  # a list given beforehand may be meant by numbers
        index = {**{str(position): position for position in range(len(classes))}, **index}
    for row, names in zip(rows, named, strict=True):
        for name in names or ():
            if name not in index:
                label = shortened(name)
                raise DataError(f"{row.place}: label '{label}' is not in the class list; {did_you_mean(name, classes)}")
    per_row = [None if names is None else [index[name] for name in names] for names in named]
    if any(len(labels) > 1 for labels in per_row if labels is not None):
        return RowLabels(classes, "multilabel", [None if f is None else _indicators(f, len(classes)) for f in per_row])
    return RowLabels(classes, "labels", [Label(labels[0]) if labels else None for labels in per_row])


def labels_of_columns(rows: Sequence[Row], columns: Sequence[str]) -> RowLabels:
    """From one column per class with 1, 0 or unknown; exactly one 1 in every row makes it a set of single labels.

    Raises:
        DataError: a cell is none of these.
    """
    table = [tuple(_indicator(row, column) for column in columns) for row in rows]
    if all(sorted(values) == [0.0] * (len(columns) - 1) + [1.0] for values in table):
        names = ", ".join(f"'{shortened(column)}'" for column in columns[:NAMED]) + " ..." * (len(columns) > NAMED)
        note = f"Columns {names} have exactly one 1 in each row: read as one class per image."
        return RowLabels(tuple(columns), "labels", [Label(values.index(1.0)) for values in table], (note,))
    known = [any(value == value for value in values) for values in table]  # NaN differs from itself
    per_row = [Labels(values) if some else None for values, some in zip(table, known, strict=True)]
    return RowLabels(tuple(columns), "multilabel", per_row)


def is_indicator_column(rows: Sequence[Row], column: str) -> bool:
    """Whether a column holds nothing but 1, 0 and marks for unknown, a 1 or 0 at least once."""
    texts = {row.text(column).lower() for row in rows}
    return bool(texts & set(INDICATORS)) and texts <= set(INDICATORS) | set(UNKNOWN)


def _names_in(cell: Any) -> list[str] | None:
    """Names in a cell, or None where it says nothing. An empty JSON list says that none applies."""
    if isinstance(cell, str) and cell.strip().startswith("["):
        try:
            cell = parse_json("", cell)
        except DataError:  # a name that begins with a bracket
            return [cell.strip()]
    if isinstance(cell, list):
        return list(dict.fromkeys(str(name).strip() for name in cell))
    text = "" if cell is None or cell != cell else str(cell).strip()
    if text.lower() in ("", "nan"):
        return None
    return list(dict.fromkeys(name.strip() for name in re.split(r"[|;]", text) if name.strip())) or None


def _in_order(names: set[str]) -> tuple[str, ...]:
    """Sorted, by value where all are whole numbers."""
    numbers = all(name.isdecimal() and len(name) <= MOST_DIGITS for name in names)
    return tuple(sorted(names, key=int if numbers else None))


def _indicators(labels: Sequence[int], num_classes: int) -> Labels:
    return Labels(tuple(float(index in labels) for index in range(num_classes)))


def _indicator(row: Row, column: str) -> float:
    text = row.text(column).lower()
    if text not in INDICATORS and text not in UNKNOWN:
        cell = shortened(row.text(column))
        raise DataError(f"{row.place}: '{cell}' in column '{shortened(column)}'; give 1, 0, or blank for unknown")
    return INDICATORS[text] if text in INDICATORS else UNKNOWN[text]
