"""Fixtures that all rooms share. Real data is extra: its tests skip where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _data_dir() -> Path:
    return Path(os.environ.get("VLADAPT_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of small real data sets ($VLADAPT_DATA)."""
    if not _data_dir().is_dir():
        pytest.skip("no real data sets here; set VLADAPT_DATA to their folder")
    return _data_dir()


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder of the public reference code's outputs, beside the real data sets."""
    folder = _data_dir().parent / "parity"
    if not folder.is_dir():
        pytest.skip("no reference outputs here; they lie beside the folder in VLADAPT_DATA")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's feature store."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "vladapt-cache"))
