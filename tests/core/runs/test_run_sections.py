"""What the runs of all tasks show alike: forgetting is told from chance, facts that are not known are left out."""

from __future__ import annotations

import pytest

from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.forgetting.score import Forgotten
from vladapt.core.runs.run_sections import facts, judged_texts, licences, options, skipped, small_test_set


def forgotten(gained: int | None, lost: int | None, p_value: float | None, **changes) -> Forgotten:
    sides = {
        "before": {"top1": 0.24, "top5": 0.4, "interval": [0.1788, 0.3143]},
        "after": {"top1": 0.18, "top5": 0.3, "interval": [0.1268, 0.2492]},
    }
    tested = {"gained": gained, "lost": lost, "p_value": p_value}
    told = {"name": "drawings", "words": 130, "images": 150, **sides, **tested, "note": "", **changes}
    return Forgotten.from_json({"generic": told})


@pytest.mark.parametrize(
    ("tested", "tone", "title"),
    [
        ((3, 30, 1e-6), "bad", "It forgot some of what it knew, by more than chance"),
        ((30, 3, 1e-6), "good", "It names generic images better than before"),
        ((1, 4, 0.4), "open", "A loss that could be chance"),
        ((4, 1, 0.4), "open", "No loss"),
        ((0, 0, 1.0), "open", "No loss"),
        ((None, None, None), "open", "This cannot tell what it forgot"),
    ],
)
def test_forgetting_is_told_from_chance(tested, tone, title):
    verdict = forgotten(*tested).verdict
    assert (verdict.tone, verdict.title) == (tone, title)
    assert "150 drawings" in verdict.text and "24.0% (17.4 to 31.6)" in verdict.text and "130 words" in verdict.text
    assert (f"It lost {tested[1]} and gained {tested[0]} (" in verdict.text) == bool(tested[0])


def test_a_reservation_is_told_and_outweighs_what_could_be_chance_only():
    guessing = forgotten(1, 0, 1.0, note="before: 0.7 % cannot be told from guessing").verdict
    assert (guessing.tone, guessing.title) == ("open", "This cannot tell what it forgot")
    assert guessing.text.endswith("Before: 0.7 % cannot be told from guessing.")
    broken = forgotten(0, 30, 1e-6, note="after: the model gives NaN").verdict
    assert broken.tone == "bad" and broken.text.endswith("After: the model gives NaN.")


def test_own_generic_images_are_named():
    verdict = forgotten(0, 0, 1.0, name="my photos").verdict
    assert "150 generic images of my photos" in verdict.text


def test_forgetting_is_a_verdict_and_a_table_with_intervals():
    assert not Forgotten.is_in({"generic": None})
    verdict, table = forgotten(3, 30, 1e-6).section()
    assert verdict.heading == "What the towers still know about other things"
    first, five = table.rows
    assert [cell.text for cell in first] == ["First word right ↑", "24.0%", "18.0%", "−6.0 points"]
    assert [cell.small for cell in first[1:3]] == ["17.4% to 31.6%", "12.2% to 25.1%"]
    assert [cell.text for cell in five] == ["Among the first five ↑", "40.0%", "30.0%", "−10.0 points"]


def test_facts_that_are_not_known_are_left_out_and_zero_is_known():
    info = {"data": {"name": "sample", "path": "sample", "kind": "clips"}, "seed": 0, "seconds": 65.2, "domain": None}
    table = facts("What", RunInfo.from_json(info), {"Steps": [0, "", None], "Teacher": [None], "Support": [[], False]})
    told = [(term, cell.text, cell.small) for term, cell in table.rows]
    assert told == [
        ("Data set", "sample", "one label per clip"),
        ("Steps", "0", ""),
        ("Seed", "0", ""),
        ("Time taken", "1 min 5 s", ""),
    ]
    assert facts("What", RunInfo(), {"Teacher": [None]}) is None


def test_options_are_written_by_kind():
    values = {"a": 1.5, "b": True, "c": None, "d": ["x"], "e": [2, 3], "f": [], "g": {"k": 1}, "h": "z" * 100}
    text = options(values)
    assert text.startswith('a = 1.5, b = yes, c = none, d = x, e = [2, 3], f = none, g = {"k": 1}, h = zzz')
    assert text.endswith("z…") and options(None) == ""


def test_a_licence_that_is_not_known_says_so():
    rows = licences(RunInfo.from_json({"backbone": None, "data": {"name": "cells", "licence": "unknown"}})).rows
    assert [row[:2] for row in rows] == [
        ("Weights", "features from a file"),
        ("Data", "cells"),
        ("Software", "vladapt"),
    ]
    assert [row[2] for row in rows] == [*["not known; find out before you share or deploy"] * 2, "Apache-2.0"]


def test_what_was_left_out_is_counted_and_cut():
    assert skipped([]) is None
    table = skipped([(f"{i}.png", "damaged") for i in range(1234)], "sample")
    assert table.title == "Samples left out" and len(table.rows) == 200
    assert table.note == "1,234 samples could not be used; the first 200 are listed, run.json has all."
    assert skipped([("a.png", "damaged")]).note == "1 file could not be used."


def test_a_small_test_set_is_told_once():
    assert small_test_set(1, []) == [
        "The test set has 1 image, fewer than 100: read the intervals, not the single numbers."
    ]
    assert small_test_set(100, []) == [] and small_test_set(5, ["It has fewer than 100 images."]) == []


@pytest.mark.parametrize(
    ("metric", "score", "spread"), [("accuracy", "100.0 %", "1.3 %"), ("macro AUROC", "1.000", "0.013")]
)
def test_a_method_that_is_right_everywhere_has_no_standard_error_of_nothing(metric, score, spread):
    """Of 40 images that are all right the true share may well be 93 %; as computed, the error is 0 or a rounding."""
    for error in (0.0, 3e-17):
        shown = judged_texts({"method": "ridge", "score": 1.0, "error": error, "metric": metric, "taken": True})
        assert shown == (score, "not known: all alike")
    assert judged_texts({"score": 1.0, "error": 0.0129, "metric": metric}) == (score, spread)
