"""Scores and predictions of trained configs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ...runs.sections import is_share


def scores_table(metrics: Mapping[str, Any]) -> Table:
    """Scores that have nothing to be compared with."""
    images = metrics["test_images"]
    table = Table(title=f"{images} test image{'s' * (images != 1)}", title_justify="left")
    table.add_column("")
    table.add_column("score", justify="right")
    for key, value in metrics["adapted"].items():
        shown = "–" if value is None else f"{value:.1%}" if is_share(key) else f"{value:.4g}"
        table.add_row(key.replace("_", " "), shown)
    return table


def summaries_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per image: what the task says of it."""
    table = Table()
    for name in ("image", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        rest = {key: value for key, value in row.items() if key != "id"}
        table.add_row(row["id"], row.get("summary") or str(rest))
    return table
