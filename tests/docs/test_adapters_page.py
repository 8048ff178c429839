"""The table in docs/adapters.md is what the command writes of the adapters that were measured."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from forked import run

from vladapt.core.registry import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adapters.md"


def test_the_table_is_what_the_command_writes():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from adapters import PAGE, TABLE, read; from adapter_page import with_table;"
        "print(with_table(PAGE.read_text(encoding='utf-8'), read(TABLE)), end='')"
    )
    printed = run(["-c", script, ROOT / "benchmarks"], check=True).stdout
    assert printed == PAGE.read_text(encoding="utf-8")


def test_what_was_measured_is_there_and_in_the_table():
    with (ROOT / "docs" / "adapters.csv").open(newline="") as file:
        measured = {row["adapter"] for row in csv.DictReader(file)}
    own = {name for name, entry in catalogue.adapters().items() if entry.entry_point is None}
    assert measured <= own and len(measured) > 30
    assert set(re.findall(r"^\| `([\w-]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) >= measured


def test_the_guide_names_adapters_that_are_there():
    guide = PAGE.read_text(encoding="utf-8").split("## Side by side")[0]
    named = set(re.findall(r"`([a-z][a-z-]+)`", guide))
    assert named <= set(catalogue.adapters())
