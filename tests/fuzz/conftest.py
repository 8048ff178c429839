"""Fuzz tests of all readers. `VLADAPT_FUZZ=2000 pytest tests/fuzz` gives each reader 2000 mutations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import mutations`


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Indices and hashes of mutated files go nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
