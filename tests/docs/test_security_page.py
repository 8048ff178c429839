"""SECURITY.md: each sentence that promises something has tests, which `security.json` names; a sentence that is changed
has to be looked at again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HELD = json.loads(Path(__file__).with_name("security.json").read_text(encoding="utf-8"))


def sentences(page: str) -> list[str]:
    """The rows of its tables, and the sentences of its other paragraphs."""
    found = []
    for block in re.split(r"\n\s*\n", page):
        if block.startswith("|"):
            found += block.splitlines()[2:]
        elif not block.startswith("#"):
            for item in re.split(r"^\* ", block.strip(), flags=re.MULTILINE):
                found += re.split(r"(?<=[.!?])\s+(?=[A-Z*`])", " ".join(item.split()))
    return [each for each in found if each]


def test_each_sentence_is_held_by_tests_or_promises_nothing():
    said = sentences((ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert said == [*dict.fromkeys(said)]
    assert set(said) == {*HELD["promises"], *HELD["notes"]}


@pytest.mark.parametrize("sentence", HELD["promises"])
def test_the_tests_of_a_sentence_are_there(sentence):
    tests = HELD["promises"][sentence]
    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
