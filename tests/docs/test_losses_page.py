"""docs/losses.md is what the command prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_command_prints():
    printed = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "losses.py")], capture_output=True, text=True, check=True
    ).stdout
    assert printed == (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
