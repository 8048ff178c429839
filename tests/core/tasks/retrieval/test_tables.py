"""Scores for a terminal: columns in the order given, intervals in brackets, a line below the last of a group."""

from __future__ import annotations

import io

from rich.console import Console

from vladapt.core.contracts.run_info import BeforeAfter
from vladapt.core.runs.sections import Measure
from vladapt.core.tasks import score_table

MEASURES = {"r1": Measure("Rank-1"), "map": Measure("mAP"), "rank": Measure("median rank", kind="rank", falls=True)}
METRICS = {
    "before": {"r1": 0.25, "map": 0.5, "rank": 3.0},
    "after": {"r1": 0.75, "map": 0.625, "rank": 1.5},
    "intervals": {"after": {"r1": [0.5, 0.9]}},
}


def test_scores_stand_beside_their_intervals():
    table = score_table(
        BeforeAfter.from_json(METRICS), MEASURES, {"after": "with", "before": "without"}, "Four", "of few", {"map"}
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    title, _, header, _, *lines, _, caption = (" ".join(line.split()) for line in console.file.getvalue().splitlines())
    assert (title, header, caption) == ("Four", "with without", "of few")
    assert lines == ["Rank-1 ↑ 75.0% (50–90%) 25.0%", "mAP ↑ 62.5% 50.0%", "", "median rank ↓ 1.5 3.0"]
