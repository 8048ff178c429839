"""Verdicts by permutation tests: the deciding metric gives the title, every metric a line."""

from __future__ import annotations

import pytest

from vladapt.core.runs import ExchangeVerdict, Measure

MEASURES = {"r1": Measure("Rank-1"), "map": Measure("mAP")}
TITLES = {"good": "Better", "open": "Chance", "bad": "Worse"}


def verdict(difference: float, p_value: float) -> ExchangeVerdict:
    tests = {"r1": {"difference": -0.02, "p_value": 0.4}, "map": {"difference": difference, "p_value": p_value}}
    return ExchangeVerdict(tests, MEASURES, "people", "map", TITLES)


@pytest.mark.parametrize(
    ("difference", "p_value", "tone", "title"),
    [(0.1, 0.01, "good", "Better"), (-0.1, 0.01, "bad", "Worse"), (0.1, 0.2, "open", "Chance")],
)
def test_the_metric_that_decides_gives_tone_and_title(difference, p_value, tone, title):
    section = verdict(difference, p_value).section()
    assert (section.tone, section.title) == (tone, title)
    first, second = section.text.splitlines()
    assert first == "Rank-1 changed by −2.0 points: could be chance (permutation test of whole people, p = 0.40)."
    assert second.startswith(f"mAP changed by {100 * difference:+.1f} points".replace("-", "−"))
    assert ("more than chance" in second) == (p_value < 0.05)


def test_without_scores_before_nothing_is_said():
    nothing = ExchangeVerdict({}, MEASURES, "people", "map", TITLES)
    assert nothing.section() is None and nothing.sentence == ""
