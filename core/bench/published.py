"""Published results of towers on benchmark sets: numbers, and where they were read.

Each table is a file `published_*.json` beside this one: its source; of sets whose size tells that they are the same
their images ("sizes"); and rows of a tower (its spec), a set, a part of it ("" for the whole) and scores in percent.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..backbones.specs import alias_of

TABLES = "published_*.json"


def published_scores(spec: str, title: str, size: int) -> dict[tuple[str, str], dict[str, float]]:
    """What is published of a tower on a set.

    Args:
        spec: of the backbone.
        title: the name under which results of the set are published.
        size: images of the set here: another number than the published one is another set.

    Returns:
        (part, measure) -> source -> value in 0..1; empty where the tower or the set is not the same.
    """
    scores: dict[tuple[str, str], dict[str, float]] = {}
    if not title:
        return scores
    alias = alias_of(spec)
    for table in _tables():
        if table.get("sizes", {}).get(title, size) != size:
            continue
        for row in table["results"]:
            if row["set"] == title and (row["tower"] == spec or (alias and alias_of(row["tower"]) == alias)):
                for measure, percent in row["scores"].items():
                    scores.setdefault((row.get("part", ""), measure), {})[table["source"]] = round(percent / 100, 6)
    return scores


@lru_cache(maxsize=1)
def _tables() -> list[dict[str, Any]]:
    files = sorted(Path(__file__).parent.glob(TABLES))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]
