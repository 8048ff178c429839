"""Answers of `predict` in the terminal: image by image, or what many of them say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from ...runs.sections import plural, worded

NAME_WIDTH, FOR_MORE = 32, 6
"""Of an image's name that is never broken, and what of it each further column takes: a terminal cuts off what has no
room."""
SHOWN_CLASSES = 6
LEAST_CERTAIN = 3


def predictions_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    """One row per image: what it is, how sure, the runners-up, and what else is known of the answers.

    Args:
        columns: further keys that rows may have -> headings.
    """
    table = Table()
    further = [key for key in columns if any(row.get(key) is not None for row in rows)]
    first = "patient" if "images" in further else "image"
    longest = max((len(row["id"]) for row in rows), default=0)
    table.add_column(first, overflow="fold", min_width=min(NAME_WIDTH - FOR_MORE * len(further), longest))
    for name in ("prediction", "confidence", "next", *(columns[key] for key in further)):
        table.add_column(name, justify="right" if name == "confidence" else "left", overflow="fold")
    for row in rows:
        if "labels" in row:
            pairs = zip(row["labels"], row["confidences"])
            label, sure = ", ".join(f"{name} {value:.1%}" for name, value in pairs) or "none", ""
            rest = [each for each in row["top"] if each["class"] not in row["labels"]]
        else:
            label, sure = row["label"], f"{row['confidence']:.1%}"
            rest = [each for each in row["top"] if each["class"] != row["label"]]
        runners_up = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in rest)
        table.add_row(row["id"], label, sure, runners_up, *(_in_words(row.get(key)) for key in further))
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
    """How many have a mark, or how many classes their sets hold."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if values and all(isinstance(value, bool) for value in values):
        return f"{title.capitalize()}: {worded(plural(sum(values), noun), words)}" if any(values) else ""
    if values and all(isinstance(value, list) for value in values):
        return f"{title.capitalize()}: {sum(map(len, values)) / len(values):.1f} classes on average"
    return ""
