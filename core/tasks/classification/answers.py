"""Answers of `predict` in the terminal: image by image, or what many of them say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from shutil import get_terminal_size
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from ...runs.sections import plural, worded

NAME_WIDTH, LEAST_NAME = 32, 12
"""Of an image's name that is not broken, and in a narrow terminal."""
BORDERS = 3
"""Characters between two columns."""
SHOWN_CLASSES = 6
LEAST_CERTAIN = 3


def predictions_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    """One row per image: what it is, how sure, the runners-up, and what else is known of the answers.

    Args:
        columns: further keys that rows may have -> headings.
    """
    further = [key for key in columns if any(row.get(key) is not None for row in rows)]
    names = _image_names(rows)
    headings = [
        "patient" if names else "image",
        *("prediction", "confidence", "next"),
        *(columns[key] for key in further),
    ]
    cells = []
    for place, row in enumerate(rows):
        row = {**row, "images": names[place]} if names else row
        if "labels" in row:
            pairs = zip(row["labels"], row["confidences"])
            label, sure = ", ".join(f"{name} {value:.1%}" for name, value in pairs) or "none", ""
            rest = [each for each in row["top"] if each["class"] not in row["labels"]]
        else:
            label, sure = row["label"], f"{row['confidence']:.1%}"
            rest = [each for each in row["top"] if each["class"] != row["label"]]
        runners_up = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in rest)
        cells.append([row["id"], label, sure, runners_up, *(_in_words(row.get(key)) for key in further)])
    return _table(headings, cells)


def _image_names(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The images of each patient, named below the folder that holds them all; nothing of rows of images."""
    images = [row["images"] for row in rows if row.get("images") is not None]
    folders = zip(*(name.split("/")[:-1] for names in images for name in names))
    shared = len(list(takewhile(lambda step: len(set(step)) == 1, folders)))
    return [["/".join(name.split("/")[shared:]) for name in names] for names in images]


def _table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """Columns of which the first is not broken within `NAME_WIDTH`. A terminal cuts off what has no room: there the
    others are as wide as their longest word, and the first has the rest."""
    columns = [[heading, *column] for heading, column in zip(headings, zip(*cells) if cells else [()] * len(headings))]
    full = [max(map(len, column)) for column in columns]
    least = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    room, name = get_terminal_size().columns - BORDERS * len(columns) - 1, min(NAME_WIDTH, full[0])
    narrow = name + sum(full[1:]) > room
    name = min(name, max(LEAST_NAME, room - sum(least[1:]))) if narrow else name
    table = Table()
    table.add_column(headings[0], overflow="fold", min_width=name)
    for heading, most in zip(headings[1:], least[1:]):
        right = "right" if heading == "confidence" else "left"
        table.add_column(heading, justify=right, overflow="fold", max_width=most if narrow else None)
    for row in cells:
        table.add_row(*row)
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool) or value is None:
        return "yes" if value else ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def predictions_summary(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], words: Mapping[str, str] | None = None
) -> Group:
    """How many images are of each class, which answers are least certain, and how many have a mark.

    Args:
        rows, columns: as of `predictions_table`.
        words: of the domain, that a sentence puts "images" in.
    """
    noun = "patient" if any(row.get("images") is not None for row in rows) else "image"
    lines = [_least_certain(rows), *(_marked(rows, key, title, noun, words or {}) for key, title in columns.items())]
    return Group(_of_classes(rows, noun), *(line for line in lines if line))


def _of_classes(rows: Sequence[Mapping[str, Any]], noun: str) -> Table:
    confidences = defaultdict(list)
    for row in rows:
        for name, value in _answers(row):
            confidences[name].append(value)
    order = sorted(confidences, key=lambda name: -len(confidences[name]))
    if len(order) > SHOWN_CLASSES + 1:
        rest = [value for name in order[SHOWN_CLASSES:] for value in confidences[name]]
        order = order[:SHOWN_CLASSES]
        confidences[f"{len(confidences) - SHOWN_CLASSES} further classes"] = rest
        order.append(next(reversed(confidences)))
    table = Table(title=plural(len(rows), noun), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("prediction", overflow="fold")
    table.add_column(f"{noun}s", justify="right")
    table.add_column("mean confidence", justify="right")
    for name in order:
        values = [value for value in confidences[name] if value is not None]
        mean = f"{sum(values) / len(values):.1%}" if values else ""
        table.add_row(name, f"{len(confidences[name]):,}", mean)
    return table


def _answers(row: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """(class, confidence) that an image is given; with several labels all of them, or "none"."""
    if "labels" not in row:
        return [(row["label"], row["confidence"])]
    return list(zip(row["labels"], row["confidences"])) or [("none", None)]


def _least_certain(rows: Sequence[Mapping[str, Any]]) -> str:
    """Answers of one class per image with the lowest confidence; "" where images have several labels."""
    if any("labels" in row for row in rows):
        return ""
    least = sorted(rows, key=lambda row: row["confidence"])[:LEAST_CERTAIN]
    return "Least certain: " + ", ".join(f"{row['id']} ({row['label']} {row['confidence']:.1%})" for row in least)


def _marked(rows: Sequence[Mapping[str, Any]], key: str, title: str, noun: str, words: Mapping[str, str]) -> str:
    """How many have a mark."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if values and all(isinstance(value, bool) for value in values):
        return f"{title.capitalize()}: {worded(plural(sum(values), noun), words)}" if any(values) else ""
    return ""
