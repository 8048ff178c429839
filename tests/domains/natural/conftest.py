from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo(tmp_path):
    """photo("images/a.jpg"): writes a small image below the test's folder, another one each time."""
    drawn = np.random.default_rng(0)

    def write(name: str):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(file)
        return file

    return write
