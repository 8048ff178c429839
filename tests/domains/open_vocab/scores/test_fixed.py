"""LVIS's fixed AP: what the package `lvis` says, a case worked by hand, and what a limit per image would do."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import ConfigError
from vladapt.domains.open_vocab.scores import Detected, Truth, score_detections
from vladapt.domains.open_vocab.scores.fixed import fixed_average_precision, surest_of_class

CASES = json.loads((Path(__file__).parent / "lvis_0_5_3.json").read_text())
"""Random sets of LVIS's form, with the AP that `lvis` 0.5.3 gives with max_dets=-1 and `per_class` detections each."""
BOX, OTHER = (0, 0, 10, 10), (30, 30, 40, 40)


def sides(case):
    truths, found = [], []
    for image in case["images"]:
        own = [row[1:] for row in case["annotations"] if row[0] == image["id"]]
        seen = [row[1:] for row in case["detections"] if row[0] == image["id"]]
        truths.append(
            Truth(
                [corners(row) for row in own],
                [row[0] - 1 for row in own],
                absent=[number - 1 for number in image["neg_category_ids"]],
                partial=[number - 1 for number in image["not_exhaustive_category_ids"]],
            )
        )
        found.append(Detected([corners(row) for row in seen], [row[5] for row in seen], [row[0] - 1 for row in seen]))
    return truths, found, [f"class {number}" for number in range(len(case["frequency"]))]


def corners(row):
    _, x, y, width, height = row[:5]
    return (x, y, x + width, y + height)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['per_class']} per class")
def test_it_is_what_the_package_lvis_says(case):
    truths, found, names = sides(case)
    metrics = fixed_average_precision(truths, found, names, frequency=case["frequency"], most=case["per_class"])
    assert metrics == pytest.approx(case["results"], abs=1e-9)


def test_a_case_worked_by_hand():
    """Of the rare class two detections count, a right one and then a wrong one, where a third would be right: half of
    the objects are found, at a precision of 1, up to a recall of a half: 51 of 101 places."""
    truths = [Truth([BOX], [0]), Truth([BOX], [0])]
    found = [Detected([BOX, OTHER], [0.9, 0.8], [0, 0]), Detected([BOX], [0.7], [0])]
    told = fixed_average_precision(truths, found, ["axe"], frequency=["r"], most=2)
    assert told == pytest.approx({"fixed_AP": 51 / 101, "fixed_AP_rare": 51 / 101})
    found_all = fixed_average_precision(truths, found, ["axe"], frequency=["r"])["fixed_AP"]
    assert found_all == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_no_image_is_too_full():
    """101 sure detections that meet nothing, and one that does: with 100 per image that one is lost."""
    count = 101
    truths = [Truth([OTHER], [0])] + [Truth([BOX], [0])] * 3
    crowd = Detected([BOX] * count + [OTHER], [0.9] * count + [0.1], [0] * (count + 1))
    found = [crowd] + [Detected([BOX], [0.95], [0])] * 3
    usual = score_detections(truths, found, ["axe"])
    assert usual.metrics["AR"] == pytest.approx(0.75)
    assert fixed_average_precision(truths, found, ["axe"])["fixed_AP"] > usual.metrics["AP"] + 0.001


def test_the_limit_holds_before_what_nobody_looked_for_is_left_out():
    """As published: the surest of a class are taken wherever they are, also where they count neither way."""
    truths = [Truth([BOX], [0], absent=()), Truth([BOX], [1], absent=())]
    found = [Detected([BOX], [0.5], [0]), Detected([BOX, BOX], [0.9, 0.9], [0, 1])]
    assert fixed_average_precision(truths, found, ["axe", "bow"], most=1)["fixed_AP"] == pytest.approx(0.5)
    assert fixed_average_precision(truths, found, ["axe", "bow"], most=2)["fixed_AP"] == pytest.approx(1)


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=6), max_size=4), st.integers(1, 4))
@settings(max_examples=25)
def test_the_surest_of_each_class_stay_in_their_images(images, most):
    found = [Detected([BOX] * len(rows), [s / 10 for _, s in rows], [label for label, _ in rows]) for rows in images]
    kept = surest_of_class(found, most)
    everything = [(label, score) for rows in images for label, score in rows]
    for label in range(3):
        of_class = sorted((score for other, score in everything if other == label), reverse=True)
        stayed = [round(s * 10) for one in kept for s, other in zip(one.scores, one.labels) if other == label]
        assert sorted(stayed, reverse=True) == of_class[:most]
    assert [len(one.boxes) for one in kept] == [len(one.scores) for one in kept] and len(kept) == len(found)


def test_nothing_found_is_nothing_and_a_label_without_a_name_is_refused():
    nothing = Detected(np.zeros((0, 4)), [], [])
    assert fixed_average_precision([Truth([BOX], [0])], [nothing], ["axe"]) == {"fixed_AP": 0.0}
    with pytest.raises(ConfigError, match="class number 1, but there are 1 names"):
        fixed_average_precision([Truth([BOX], [1])], [nothing], ["axe"])
