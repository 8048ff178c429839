"""Retrieval as tables for a terminal: what a search found, and scores before and after a training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...runs.sections import Measure
from .verdict import WORDS

DIRECTIONS = (IMAGE_TO_TEXT, TEXT_TO_IMAGE)
OF_ONE = {
    "r1": Measure("R@1"),
    "r5": Measure("R@5"),
    "r10": Measure("R@10"),
    "median_rank": Measure("median rank", kind="rank", falls=True),
    "mean_rank": Measure("mean rank", kind="rank", falls=True),
    "map": Measure("mAP"),
    "minp": Measure("mINP"),
}
MEASURES = {
    **{
        f"{side}/{name}": replace(measure, name=f"{WORDS[side]}: {measure.name}")
        for side in DIRECTIONS
        for name, measure in OF_ONE.items()
    },
    "mean_recall": Measure("mean recall, both ways"),
    "accuracy": Measure("class, named by captions"),
}
"""Key of a score in metrics.json -> how it is named and written, in the order of the rows."""


def retrieval_table(metrics: Mapping[str, Any]) -> Table:
    """Retrieval before and after, with the change and the interval of R@1.

    Args:
        metrics: of `before_and_after`, or of one `RetrievalScores`: then there is one column.
    """
    alone = "adapted"
    if IMAGE_TO_TEXT in metrics:
        metrics, alone = _as_compared(metrics), "score"
    before, after, rows = metrics["zero_shot"] or {}, metrics["adapted"], {}
    for key, measure in MEASURES.items():
        if key not in after:
            continue
        old, new = before.get(key), after[key]
        cells = {
            "zero-shot": measure.text(old) + _interval(bounds_of(metrics, "zero_shot", key)),
            "adapted": measure.text(new) + _interval(bounds_of(metrics, "adapted", key)),
            "change": "" if old is None else _change(measure, new - old),
        }
        rows[_row(measure)] = cells if before else {alone: cells["adapted"]}
    return _table(metrics["test_images"], metrics["test_texts"], rows, metrics.get("test_groups"))


def _as_compared(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """One model's scores in the shape of metrics.json."""
    flat, between = (
        {f"{side}/{name}": value for side in DIRECTIONS for name, value in of[side].items()}
        for of in (metrics, metrics["metric_intervals"])
    )
    adapted = {**flat, **{name: metrics[name] for name in ("mean_recall",) if name in metrics}}
    counts = {"test_images": metrics["images"], "test_texts": metrics["texts"]}
    return {"zero_shot": None, "adapted": adapted, "metric_intervals": {"adapted": between}, **counts}


def _row(measure: Measure) -> str:
    return f"{measure.name} {measure.arrow}"


def bounds_of(metrics: Mapping[str, Any], when: str, key: str) -> Sequence[float] | None:
    """The interval of a score, before or after; older files have those of R@1, by their direction, and of accuracy."""
    every, first = ((metrics.get(name) or {}).get(when) or {} for name in ("metric_intervals", "intervals"))
    return every.get(key) or first.get(key.removesuffix("/r1"))


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
        _row(measure): {
            name: measure.text(metrics[when][key]) + _interval((between.get(when) or {}).get(key))
            for when, name in columns.items()
        }
        for key, measure in measures.items()
    }
    return _of_rows(title, caption, rows, [_row(measures[key]) for key in last])


def _of_rows(title: str, caption: str, rows: Mapping[str, Mapping[str, str]], last: Collection[str]) -> Table:
    """Rows as name -> title of a column -> cell; a line is drawn below the `last` ones."""
    header = ("", *next(iter(rows.values())))
    return terminal_table(title, caption, header, [(name, *cells.values()) for name, cells in rows.items()], last)


def terminal_table(
    title: str,
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    last: Collection[str] = (),
) -> Table:
    """Rows of a name and cells; a line is drawn below those whose names are `last`."""
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row, end_section=row[0] in last)
    return table


def _change(measure: Measure, value: float) -> str:
    ranks = measure.kind == "rank"
    change = round(value if ranks else 100 * value, 1) + 0.0  # no -0.0
    return f"{change:+,.1f}" if ranks else f"{change:+.1f} points"


def _interval(bounds: Sequence[float] | None) -> str:
    return f" ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}%)" if bounds else ""
