"""docs/losses.md is what the command prints of the objectives it names; one that is new is not on it yet."""

from __future__ import annotations

import re
from pathlib import Path

from forked import run

from vladapt.core.registry.catalogue import losses

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `([\w-]+)` \|")


def test_the_page_is_what_the_command_prints():
    printed = run([ROOT / "benchmarks" / "losses.py"], check=True).stdout
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    told = {found[1] for line in page.splitlines() if (found := ROW.match(line))}
    assert len(told) > 20 and told <= set(losses())
    kept = [line for line in printed.splitlines() if not (found := ROW.match(line)) or found[1] in told]
    assert kept == page.splitlines()
