"""What `make test` leaves out repeats what stands beside it, and is little."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
WHOLE = 10_000
"""Tests of a run that names no file."""
MOST = 0.05
SAFETY = re.compile(r"parity|closed_form|gradient|pickle|hostile|traversal|refused")
"""In names of files and tests that are never left out."""


def faults(tests: Mapping[str, bool]) -> list[str]:
    """Thorough tests that no other test of their folder stands for, or that must run each time."""
    plain = {PurePosixPath(name.partition("::")[0]).parent for name, thorough in tests.items() if not thorough}
    marked = [name for name, thorough in tests.items() if thorough]
    alone = [name for name in marked if PurePosixPath(name.partition("::")[0]).parent not in plain]
    return [*alone, *(name for name in marked if SAFETY.search(name.partition("[")[0]))]


def test_what_is_left_out_has_a_neighbour_that_runs(collected, sparing):
    if len(collected) < WHOLE:
        pytest.skip("only a part of the suite is run")
    assert not faults(collected)
    assert 0 < sum(collected.values()) <= MOST * len(collected)
    both = {name: {thorough for case, thorough in collected.items() if case.startswith(f"{name}[")} for name in sparing}
    assert not {name: kinds for name, kinds in both.items() if kinds != {True, False}}


def test_a_thorough_test_alone_in_its_folder_or_of_safety_is_named():
    tests = {"a/test_one.py::test_x[1]": True, "a/test_two.py::test_y": False, "b/test_one.py::test_z": True}
    tests["a/test_two.py::test_a_pickle_is_never_read"] = True
    assert faults(tests) == ["b/test_one.py::test_z", "a/test_two.py::test_a_pickle_is_never_read"]
    assert faults(dict.fromkeys(tests, False)) == []


@pytest.mark.thorough(but=("first", "sec"))
@pytest.mark.parametrize("case", ["first", "second", "third"])
def test_cases_that_a_mark_spares_run_each_time(case, collected, request):
    """`third` stands for nothing; it shows that the mark holds."""
    (marked,) = [name for name, thorough in collected.items() if "spares" in name and thorough] or [None]
    assert marked is None or marked.endswith("[third]")
    assert (request.node.get_closest_marker("thorough") is not None) == (case == "third")


def test_make_leaves_them_out_and_runs_them():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = dict(re.findall(r"^(test|test-all): .*\n\t(.+)", makefile, re.MULTILINE))
    assert recipe["test"].startswith('$(SUITE) -m "not thorough" ')
    assert "VLADAPT_FUZZ=60 $(SUITE) " in recipe["test-all"] and "-m" not in recipe["test-all"]
