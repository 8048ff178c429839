"""docs/trust.md: its commands are there, and what it says in numbers is what the code does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vladapt.core.confidence import fewest_rows
from vladapt.core.confidence.selective import fewest_rows as rows_without_mistake

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")


def test_each_section_that_is_measured_has_its_command(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from trust import SECTIONS, SETS

    named = set(re.findall(r"python benchmarks/trust\.py (\w+)", PAGE))
    assert named and named <= set(SECTIONS)
    assert all(f"\n| {name} |" in PAGE for name in SETS)


def test_the_numbers_of_rows_are_those_of_the_code():
    assert f"fewer than {fewest_rows(0.9)} rows for 0.9 ({fewest_rows(0.95)} for 0.95)" in PAGE
    needed = f"takes {rows_without_mistake(0.05)} rows without a mistake for 5 %, {rows_without_mistake(0.1)} for 10 %"
    assert needed in PAGE.replace("\n", " ")
