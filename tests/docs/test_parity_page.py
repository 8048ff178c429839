"""docs/parity.md: every row is within its tolerance, and no method or objective is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vladapt.core.registry.catalogue import adapters, losses

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "parity.md").read_text(encoding="utf-8")
TITLES = ("Methods", "Objectives", "Open vocabulary")
PARTS = dict(zip(TITLES, re.split(rf"^## (?:{'|'.join(TITLES)}|Fixtures).*$", PAGE, flags=re.M)[1:]))
ROW = re.compile(r"^\| (?P<method>[^|]+) \| (?P<fixture>\w+) \| \d+ \| \S+ \| (?P<share>\S+)% \| .+ \|$", re.M)


def test_every_row_is_within_its_tolerance():
    rows = list(ROW.finditer(PAGE))
    assert len(rows) == PAGE.count("\n| ") - len(TITLES)  # a table each, with a heading
    assert len(rows) > 40 and all(0 <= float(row["share"]) <= 100 for row in rows)


@pytest.mark.parametrize(("part", "catalogue"), [("Methods", adapters), ("Objectives", losses)])
def test_each_of_ours_is_told_about(part, catalogue):
    ours = {name for name, entry in catalogue().items() if entry.entry_point is None}
    lines = re.findall(r"^\* \*\*(.+?)\*\*: .+\.$", PARTS[part], re.M)
    told = {name for line in lines for name in line.split(", ")}
    compared = {row["method"] for row in ROW.finditer(PARTS[part])}
    assert ours <= told
    assert compared <= told and told - ours <= {"open_clip", "dassl schedule"}


def test_each_module_that_is_compared_is_told_about():
    compared = {row["method"] for row in ROW.finditer(PARTS["Open vocabulary"])}
    assert {"owlvit", "detection matching"} <= compared
    assert compared <= set(re.findall(r"^\* \*\*(.+?)\*\*: .+\.$", PARTS["Open vocabulary"], re.M))
