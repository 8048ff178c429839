"""What a training of several sources learned from each, as a table: samples seen, loss, and retrieval within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...runs.sections import TableSection
from ..tower_training.comparison import interval_words, table_of
from .comparison import WORDS, RetrievalComparison

KEY = "sources"
TITLE = "By source"
SERIES = ("samples", "loss", "val")
NOTE = (
    "Retrieval is within the test pairs of a source, with 95 % intervals in brackets; the loss is CLIP's, of the rows "
    "of a source among their batch."
)


def source_rows(
    sources: Sequence[Mapping[str, Any]], log: Sequence[Mapping[str, Any]], metrics: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One JSON-able row per source: "name", "path", "shares" (of each stage), "train" and "samples" (of the training
    set, and how many were seen), "loss" and "val" (first and last), "metrics" (of `before_and_after`).

    Args:
        sources: as in run.json's data.
        log: the lines of the training's log.
        metrics: name -> of `before_and_after`.
    """
    rows = []
    for source in sources:
        prefix = f"source.{source['name']}."
        of = {key: [line[prefix + key] for line in log if line.get(prefix + key) is not None] for key in SERIES}
        rows.append(
            {
                "name": source["name"],
                "path": source.get("path"),
                "shares": list(source["shares"]),
                "train": source["splits"].get("train", 0),
                "samples": of["samples"][-1] if of["samples"] else None,
                "loss": [of["loss"][0], of["loss"][-1]] if of["loss"] else None,
                "val": [of["val"][0], of["val"][-1]] if of["val"] else None,
                "metrics": dict(metrics.get(source["name"], {})),
            }
        )
    return rows


def source_section(rows: Sequence[Mapping[str, Any]]) -> TableSection | None:
    """For the report; None of one source."""
    if not rows:
        return None
    cells = [(row["name"], *_cells(row).values()) for row in rows]
    return TableSection(TITLE, ("Source", *_cells(rows[0])), cells, NOTE)


def source_table(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """For a terminal; None of one source."""
    return table_of(TITLE, NOTE, {row["name"]: _cells(row) for row in rows}) if rows else None


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    compared = RetrievalComparison.from_json(row["metrics"])
    cells = {
        "share": " → ".join(f"{share:.1%}" for share in row["shares"]),
        "pairs": f"{row['train']:,}",
        "seen": "–" if row["samples"] is None else f"{row['samples']:,}",
        "loss": "–" if row["loss"] is None else " → ".join(f"{value:.3f}" for value in row["loss"]),
        "val": "–" if row["val"] is None else " → ".join(f"{value:.1%}" for value in row["val"]),
    }
    for side in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        key = f"{side}/r1"
        after, before = compared.adapted.get(key), compared.zero_shot.get(key)
        words = "–"
        if after is not None:
            words = f"{after:.1%}{interval_words(compared.between(key)[1])}"
            words = words if before is None else f"{before:.1%} → {words}"
        cells[f"{WORDS[side]} R@1"] = words
    return cells
