"""Scores before and after a training: the deciding metric gives the title, every metric a line of text and a row."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from rich.console import Console

from vladapt.core.runs import Measure
from vladapt.core.tasks import ExchangeComparison


@dataclass(frozen=True, eq=False)
class Comparison(ExchangeComparison):
    measures: ClassVar = {
        "r1": Measure("Rank-1"),
        "map": Measure("mAP"),
        "rank": Measure("median rank", kind="rank", falls=True),
    }
    unit: ClassVar = "people"
    deciding: ClassVar = "map"
    titles: ClassVar = {"good": "Better", "open": "Chance", "bad": "Worse"}

    guessing: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("difference", "p_value", "tone", "title"),
    [(0.1, 0.01, "good", "Better"), (-0.1, 0.01, "bad", "Worse"), (0.1, 0.2, "open", "Chance")],
)
def test_the_metric_that_decides_gives_tone_and_title(difference, p_value, tone, title):
    tests = {"r1": {"difference": -0.02, "p_value": 0.4}, "map": {"difference": difference, "p_value": p_value}}
    section = Comparison(exchange=tests).section()
    assert (section.tone, section.title) == (tone, title)
    first, second = section.text.splitlines()
    assert first == "Rank-1 changed by −2.0 points: could be chance (permutation test of whole people, p = 0.40)."
    assert second.startswith(f"mAP changed by {100 * difference:+.1f} points".replace("-", "−"))
    assert ("more than chance" in second) == (p_value < 0.05)


def test_without_scores_before_nothing_is_said():
    assert Comparison().section() is None and Comparison().sentence == ""


def test_scores_stand_beside_their_intervals():
    metrics = {
        "guessing": {"r1": 0.25, "map": 0.5, "rank": 3.0},
        "adapted": {"r1": 0.75, "map": 0.625, "rank": 1.5},
        "intervals": {"adapted": {"r1": [0.5, 0.9]}},
    }
    columns = {"adapted": "with", "guessing": "without"}
    console = Console(file=io.StringIO(), width=80)
    console.print(Comparison.from_json(metrics).score_table(columns, "Four", "of few", {"map"}))
    title, _, header, _, *lines, _, caption = (" ".join(line.split()) for line in console.file.getvalue().splitlines())
    assert (title, header, caption) == ("Four", "with without", "of few")
    assert lines == ["Rank-1 ↑ 75.0% (50–90%) 25.0%", "mAP ↑ 62.5% 50.0%", "", "median rank ↓ 1.5 3.0"]
