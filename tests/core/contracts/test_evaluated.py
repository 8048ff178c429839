"""What a task says of a run that is scored again: a record, which is read like the dictionary that it prints as."""

from __future__ import annotations

import pytest

from vladapt import Evaluated

PRINTED = {
    "run": "runs/one",
    "data": "cells",
    "split": "test",
    "in_fit": 0,
    "in_fit_words": "None of the 9 images were in the fit.",
    "zero_shot": None,
    "adapted": {"accuracy": 0.5},
    "test_images": 9,
    "notes": ["a note"],
    "skipped": [["a.png", "empty"]],
}
TITLE = "pointing of domain 'toy'"


def record(**changes) -> Evaluated:
    scores = {key: PRINTED[key] for key in ("zero_shot", "adapted", "test_images")}
    known = {key: PRINTED[key] for key in ("in_fit", "in_fit_words")}
    given = {"metrics": scores, "in_fit": known, "notes": ["a note"], "skipped": [("a.png", "empty")], **changes}
    return Evaluated("runs/one", "cells", "test", **given)


def test_it_is_a_mapping_in_the_order_in_which_it_is_printed():
    assert record().to_json() == PRINTED and list(record().to_json()) == list(PRINTED)
    assert record()["adapted"]["accuracy"] == 0.5 and record().words == PRINTED["in_fit_words"]
    assert "notes" not in record(notes=None) and record(in_fit={}).words == ""


def test_a_dictionary_is_taken_with_a_warning_and_says_the_same():
    with pytest.warns(DeprecationWarning, match="pointing of domain 'toy': evaluate.. returns a dictionary"):
        taken = Evaluated.returned(PRINTED, TITLE)
    assert taken.to_json() == PRINTED and list(taken) == list(PRINTED) and taken.skipped == [["a.png", "empty"]]
    same = record()
    assert Evaluated.returned(same, TITLE) is same
