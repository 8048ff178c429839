"""Retrieval as tables for a terminal: what a search found, and scores before and after a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ...metrics.retrieval import IMAGE_TO_TEXT
from ..tower_training.comparison import interval_words, table_of
from .comparison import DIRECTIONS, WORDS, RetrievalComparison, RetrievalMetrics

SHOWN = {
    "r1": "R@1 ↑",
    "r5": "R@5 ↑",
    "r10": "R@10 ↑",
    "median_rank": "median rank ↓",
    "mean_rank": "mean rank ↓",
    "map": "mAP ↑",
    "minp": "mINP ↑",
}
OF_BOTH = {"mean_recall": "mean recall, both ways ↑", "accuracy": "class, named by captions ↑"}
"""Scores of both directions together."""
RANKS = ("median_rank", "mean_rank")


def retrieval_table(metrics: Mapping[str, Any]) -> Table:
    """Retrieval before and after, with the change and the interval of R@1.

    Args:
        metrics: of `before_and_after`, or of one `RetrievalScores`: then there is one column.
    """
    if IMAGE_TO_TEXT in metrics:
        alone = RetrievalMetrics.from_json(metrics)
        return _table(alone.images, alone.texts, _one_column(alone))
    both = RetrievalComparison.from_json(metrics)
    rows = {
        f"{WORDS[side]}: {shown}": _cells(both, f"{side}/{name}", name)
        for side in DIRECTIONS
        for name, shown in SHOWN.items()
        if f"{side}/{name}" in both.adapted
    }
    rows |= {title: _cells(both, key, key) for key, title in OF_BOTH.items() if key in both.adapted}
    return _table(both.test_images, both.test_texts, rows, both.test_groups)


def _cells(both: RetrievalComparison, key: str, name: str) -> dict[str, str]:
    """A score before and after, with intervals, and the change; after alone where nothing was scored before."""
    old, new, between = both.zero_shot.get(key), both.adapted[key], both.between(key)
    adapted = _number(name, new) + interval_words(between[1])
    if not both.zero_shot:
        return {"adapted": adapted}
    change = "" if old is None else _change(name, new - old)
    return {"zero-shot": _number(name, old) + interval_words(between[0]), "adapted": adapted, "change": change}


def _one_column(metrics: RetrievalMetrics) -> dict[str, dict[str, str]]:
    scores, between = metrics.flat, metrics.flat_intervals
    rows = {
        f"{WORDS[side]}: {shown}": {"score": _number(name, scores[key]) + interval_words(between.get(key))}
        for side in DIRECTIONS
        for name, shown in SHOWN.items()
        if (key := f"{side}/{name}") in scores
    }
    both = {
        title: {"score": _number("", scores[key]) + interval_words(metrics.intervals.get(key))}
        for key, title in OF_BOTH.items()
        if key in scores
    }
    return rows | both


def _table(images: int, texts: int, rows: Mapping[str, Mapping[str, str]], groups: int | None = None) -> Table:
    of_groups = f" of {groups:,} groups" if groups else ""
    directions = [name.partition(":")[0] for name in rows]
    last = [name for name, one, other in zip(rows, directions, [*directions[1:], ""]) if one != other]
    caption = "rank 1 is the best; of equal scores the wrong ones come first; 95 % intervals in brackets"
    return table_of(f"{images:,} images{of_groups}, {texts:,} texts", caption, rows, last)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if name in RANKS else f"{value:.1%}"


def _change(name: str, value: float) -> str:
    change = round(value if name in RANKS else 100 * value, 1) + 0.0  # no -0.0
    return (f"{change:+,.1f}" if name in RANKS else f"{change:+.1f} points").replace("-", "−")
