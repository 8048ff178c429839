"""docs/losses.md is what the command prints."""

from __future__ import annotations

from pathlib import Path

from forked import run

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_command_prints():
    printed = run([ROOT / "benchmarks" / "losses.py"], check=True).stdout
    assert printed == (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
