"""docs/options.md is what the command prints of the options that fields declare."""

from __future__ import annotations

from pathlib import Path

from forked import run

from vladapt.core.commands.declared import options_of_domain
from vladapt.core.contracts.recipe import KEYS
from vladapt.core.contracts.use import USE

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_command_prints():
    printed = run([ROOT / "benchmarks" / "options_page.py"], check=True).stdout
    assert printed == (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    for each in (*KEYS.values(), *USE.values(), *options_of_domain("video")):
        assert each.name.replace("_", "-") in printed or f"`{each.name}`" in printed
