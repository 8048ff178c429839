"""What trains here names few generic drawings."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def _few_drawings(few_drawings):
    """Of the generic probe."""


@pytest.fixture
def in_toy_folder(monkeypatch, tmp_path):
    """A third party's packages are installed, and the folder is the test's own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "third_party"))
    monkeypatch.chdir(tmp_path)
