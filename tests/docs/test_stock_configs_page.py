"""docs/measurements/open-vocab-stock-configs.md: each folder of configs has its row and is counted."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from stock_checks.choice import by_size, folders

PAGE = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "open-vocab-stock-configs.md"


def test_every_folder_has_its_row():
    text = PAGE.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| mm")]
    assert [row[0] for row in rows] == folders()
    assert all(not row[1] or f"{row[1]}.py" in {file.name for file in by_size(row[0])} for row in rows)
    outcomes = [row[-1].partition(":")[0] for row in rows]
    works, fit = (int(number) for number in re.search(r"\*\*(\d+) of (\d+) folders work", text).groups())
    assert works == outcomes.count("works") and fit == works + outcomes.count("fails")
    assert works >= 0.95 * fit
