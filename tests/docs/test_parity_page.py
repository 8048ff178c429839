"""docs/parity.md: every row is within its tolerance, and what it says of a method is what the method's file says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vladapt.core.registry import adapter_class, loss_class
from vladapt.core.registry.catalogue import adapters, losses

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "parity.md").read_text(encoding="utf-8")
TITLES = (
    "Methods",
    "Losses",
    "Metrics, selection and sampling",
    "Open vocabulary",
    "Remote sensing",
    "People",
    "Medical images",
    "Curation",
    "Towers joined",
    "Compositional questions",
    "Languages",
    "Robustness",
)
PARTS = dict(zip(TITLES, re.split(rf"^## (?:{'|'.join(TITLES)}|Fixtures).*$", PAGE, flags=re.M)[1:]))
ROW = re.compile(r"^\| (?P<method>[^|]+) \| (?P<fixture>\w+) \| \d+ \| \S+ \| (?P<share>\S+)% \| .+ \|$", re.M)


def test_every_row_is_within_its_tolerance():
    rows = list(ROW.finditer(PAGE))
    assert len(rows) == PAGE.count("\n| ") - len(TITLES)  # a table each, with a heading
    assert len(rows) > 40 and all(0 <= float(row["share"]) <= 100 for row in rows)


@pytest.mark.parametrize(
    ("part", "catalogue", "load"), [("Methods", adapters, adapter_class), ("Losses", losses, loss_class)]
)
def test_the_page_tells_what_the_files_say(part, catalogue, load):
    """Of what was there when the page was made: a method that is new is not on it yet."""
    told = dict(re.findall(r"^\* \*\*(.+?)\*\*: (.+)\.$", PARTS[part], re.M))
    ours = {name for name, entry in catalogue().items() if entry.entry_point is None}
    assert told.keys() - ours <= {"open_clip", "dassl schedule", "conformal sets", "rewarm"}
    assert {name: load(name).differs for name in told.keys() & ours} == {
        name: told[name] for name in told.keys() & ours
    }
    assert {row["method"] for row in ROW.finditer(PARTS[part])} <= told.keys()


def test_each_module_that_is_compared_is_told_about():
    compared = {row["method"] for row in ROW.finditer(PARTS["Open vocabulary"])}
    assert {"owlvit", "detection matching"} <= compared
    assert compared <= set(re.findall(r"^\* \*\*(.+?)\*\*: .+\.$", PARTS["Open vocabulary"], re.M))
