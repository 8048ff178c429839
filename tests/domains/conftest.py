"""What trains here names few generic drawings."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _few_drawings(few_drawings):
    """Of the generic probe."""
