"""Retrieval as tables for a terminal: what a search found, and scores before and after a training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...runs.sections import Measure
from .verdict import WORDS

DIRECTIONS = (IMAGE_TO_TEXT, TEXT_TO_IMAGE)
SHOWN = {
    "r1": "R@1 ↑",
    "r5": "R@5 ↑",
    "r10": "R@10 ↑",
    "median_rank": "median rank ↓",
    "mean_rank": "mean rank ↓",
    "map": "mAP ↑",
    "minp": "mINP ↑",
}
MEAN_RECALL = "mean recall, both ways ↑"
ACCURACY = "class, named by captions ↑"
RANKS = ("median_rank", "mean_rank")


def retrieval_table(metrics: Mapping[str, Any]) -> Table:
    """Retrieval before and after, with the change and the interval of R@1.

    Args:
        metrics: of `before_and_after`, or of one `RetrievalScores`: then there is one column.
    """
    if IMAGE_TO_TEXT in metrics:
        return _table(metrics["images"], metrics["texts"], _one_column(metrics))
    before, after = metrics["zero_shot"], metrics["adapted"]
    rows = {}
    for side in DIRECTIONS:
        for name, shown in SHOWN.items():
            key = f"{side}/{name}"
            if key not in after:
                continue
            old, new = (before or {}).get(key), after[key]
            between = {when: _bounds(metrics, when, side, name) for when in ("zero_shot", "adapted")}
            cells = {
                "zero-shot": _number(name, old) + _interval(between["zero_shot"]),
                "adapted": _number(name, new) + _interval(between["adapted"]),
                "change": "" if old is None else _change(name, new - old),
            }
            rows[f"{WORDS[side]}: {shown}"] = cells if before else {"adapted": cells["adapted"]}
    if "mean_recall" in after:
        old, new = (before or {}).get("mean_recall"), after["mean_recall"]
        cells = {"zero-shot": _number("", old), "adapted": _number("", new)}
        change = "" if old is None else _change("", new - old)
        rows[MEAN_RECALL] = {**cells, "change": change} if before else {"adapted": cells["adapted"]}
    if "accuracy" in after:
        rows[ACCURACY] = _accuracy_row(before, after, metrics["intervals"])
    return _table(metrics["test_images"], metrics["test_texts"], rows, metrics.get("test_groups"))


def _bounds(metrics: Mapping[str, Any], when: str, side: str, name: str) -> Sequence[float] | None:
    """The interval of a score, before or after; older files have that of R@1 alone."""
    every, first = ((metrics.get(key) or {}).get(when) or {} for key in ("metric_intervals", "intervals"))
    return every.get(f"{side}/{name}") or (first.get(side) if name == "r1" else None)


def _accuracy_row(before, after: Mapping[str, float], intervals: Mapping[str, Any]) -> dict[str, str]:
    new, bounds = after["accuracy"], intervals["adapted"]["accuracy"]
    adapted = _number("accuracy", new) + _interval(bounds)
    if not before:
        return {"adapted": adapted}
    old = before["accuracy"]
    zero_shot = _number("accuracy", old) + _interval(intervals["zero_shot"]["accuracy"])
    return {"zero-shot": zero_shot, "adapted": adapted, "change": _change("accuracy", new - old)}


def _one_column(metrics: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    rows = {
        f"{WORDS[side]}: {shown}": {
            "score": _number(name, metrics[side][name]) + _interval(metrics["metric_intervals"][side].get(name))
        }
        for side in DIRECTIONS
        for name, shown in SHOWN.items()
        if name in metrics[side]
    }
    if "mean_recall" in metrics:
        rows[MEAN_RECALL] = {"score": _number("", metrics["mean_recall"])}
    return rows


def _table(images: int, texts: int, rows: Mapping[str, Mapping[str, str]], groups: int | None = None) -> Table:
    of_groups = f" of {groups:,} groups" if groups else ""
    directions = [name.partition(":")[0] for name in rows]
    last = [name for name, one, other in zip(rows, directions, [*directions[1:], ""]) if one != other]
    caption = "rank 1 is the best; of equal scores the wrong ones come first; 95 % intervals in brackets"
    return _of_rows(f"{images:,} images{of_groups}, {texts:,} texts", caption, rows, last)


def score_table(
    metrics: Mapping[str, Any],
    measures: Mapping[str, Measure],
    columns: Mapping[str, str],
    title: str,
    caption: str,
    last: Collection[str] = (),
) -> Table:
    """Scores with their intervals for a terminal.

    Args:
        metrics: key of a column -> key of a score -> value, and the same in "intervals", where there are any.
        measures: key of a score -> how it is named and written, in the order of the rows.
        columns: key -> title.
        last: keys of scores below which a line is drawn.
    """
    between = metrics.get("intervals") or {}
    rows = {
        f"{measure.name} {measure.arrow}": {
            name: measure.text(metrics[when][key]) + _interval((between.get(when) or {}).get(key))
            for when, name in columns.items()
        }
        for key, measure in measures.items()
    }
    return _of_rows(title, caption, rows, [f"{measures[key].name} {measures[key].arrow}" for key in last])


def _of_rows(title: str, caption: str, rows: Mapping[str, Mapping[str, str]], last: Collection[str]) -> Table:
    """Rows as name -> title of a column -> cell; a line is drawn below the `last` ones."""
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("", *next(iter(rows.values()))):
        table.add_column(name, justify="right" if name else "left")
    for name, cells in rows.items():
        table.add_row(name, *cells.values(), end_section=name in last)
    return table


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if name in RANKS else f"{value:.1%}"


def _change(name: str, value: float) -> str:
    change = round(value if name in RANKS else 100 * value, 1) + 0.0  # no -0.0
    return f"{change:+,.1f}" if name in RANKS else f"{change:+.1f} points"


def _interval(bounds: Sequence[float] | None) -> str:
    return f" ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}%)" if bounds else ""
