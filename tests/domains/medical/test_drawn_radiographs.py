"""The drawn radiographs: the report says what is drawn, and where."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vladapt.domains.medical.drawn_radiographs import (
    FINDINGS,
    NAMED,
    POSITIONS,
    SIDE,
    Study,
    drawn_phrases,
    drawn_radiographs,
    radiograph,
    render,
    study,
)

CENTRES = {"right": slice(8, 28), "left": slice(36, 56), "upper": slice(12, 32), "lower": slice(32, 52)}


def _drawn(finding: str | None, place: str = "", number: int = 0) -> np.ndarray:
    """(SIDE, SIDE) of the same chest, with one finding or none."""
    states = {name: "present" if name == finding else "unmentioned" for name in FINDINGS}
    places = {} if finding is None else {finding: place}
    return radiograph(Study(states, places, ""), np.random.default_rng([1, number]))[..., 0].astype(float)


@pytest.mark.parametrize("finding", ["Consolidation", "Lung Lesion"])
@pytest.mark.parametrize("place", POSITIONS[:4])
def test_a_finding_is_drawn_where_it_is_said(finding, place):
    changed = np.abs(_drawn(finding, place) - _drawn(None)) > 60
    side, height, _ = place.split()
    there = np.zeros_like(changed)
    there[CENTRES[height], CENTRES[side]] = True
    assert changed.sum() >= 3 and (changed & there).sum() > 0.8 * changed.sum()


def test_fluid_is_bright_and_air_is_dark():
    plain = _drawn(None)
    assert (_drawn("Pleural Effusion", "left lower zone") - plain)[40:52, CENTRES["left"]].mean() > 20
    assert (_drawn("Pneumothorax", "left upper zone") - plain)[:32, CENTRES["left"]].min() < -25


def test_the_report_says_what_is_drawn():
    states = set()
    for number in range(60):
        made = study(3, number)
        low = made.report.lower()
        for name in FINDINGS:
            state = made.states[name]
            states.add(state)
            assert (name in made.places) == (state in ("present", "uncertain"))
            impression = low.partition("impression:")[2]
            words = NAMED[name].format("").strip()
            assert (words in impression) == (name in made.places)
            if name in made.places and name != "Cardiomegaly":
                assert made.places[name].split()[0] in impression
    assert states == {"present", "absent", "uncertain", "unmentioned"}


def test_numbers_tell_findings_and_their_positions():
    item = drawn_radiographs({"train": 40}).items[7]
    made, target = study(0, 7), item.target
    numbers = target.numbers()
    relations = np.reshape(numbers["relations"], (len(FINDINGS), len(POSITIONS)))
    for name, value, row, label in zip(FINDINGS, numbers["findings"], relations, target.class_label(), strict=True):
        state = made.states[name]
        assert label == (name in made.places)
        assert math.isnan(value) if state == "unmentioned" else value == {"present": 1, "absent": -1}.get(state, 0)
        expected = {"present": 1, "absent": 0}.get(state, math.nan)
        np.testing.assert_equal(row.sum(), expected)


def test_the_same_on_every_machine_and_others_for_another_seed():
    first, again, other = (drawn_radiographs({"train": 3, "test": 2}, seed).items for seed in (0, 0, 1))
    assert [item.captions() for item in first] == [item.captions() for item in again]
    assert [item.captions() for item in first] != [item.captions() for item in other]
    assert [item.split for item in first] == ["train"] * 3 + ["test"] * 2
    images = [render(item) for item in (first[0], again[0], other[0])]
    assert images[0].shape == (SIDE, SIDE, 3) and images[0].dtype == np.uint8
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()


def test_phrases_have_the_box_of_what_is_drawn():
    data = drawn_phrases({"train": 30, "test": 6})
    whole = {item.id: item for item in drawn_radiographs({"train": 30, "test": 6}).items}
    assert {item.split for item in data.items} == {"train", "test"} and 10 < len(data.items) <= 36
    for item in data.items:
        target, drawn = item.target, study(0, item.decode["number"])
        assert np.array_equal(data.load(item), render(whole[item.id]))
        for text, label, ((left, top, right, bottom),) in zip(target.texts, target.labels, target.boxes, strict=True):
            place = drawn.places[FINDINGS[label]]
            assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64 and text
            if place.startswith(("left", "right")):
                assert ((left + right) / 2 > 32) == place.startswith("left"), "left is right in the image"
