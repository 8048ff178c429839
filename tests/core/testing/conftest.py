"""What tests of checks share: the lines of a broken class, compared with those that are expected."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "third_party")]


@pytest.fixture
def says():
    """`says(lines, expected, title)`: line by line the same; "..." stands for what differs from run to run."""

    def compare(lines: list[str], expected: tuple[str, ...], title: str) -> None:
        shown = "\n".join(lines) or "nothing is violated"
        assert len(lines) == len(expected), shown
        for line, wanted in zip(lines, expected):
            pattern = re.escape(f"{title}: {wanted}").replace(re.escape("..."), ".*")
            assert re.fullmatch(pattern, line), shown

    return compare
