"""A tower small enough to count what it does, and images that need no files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_tower is also run in processes of its own

from tiny_tower import TinyTower, drawn_set


@pytest.fixture
def tower():
    """A fresh backbone that counts its forward passes."""
    return TinyTower()


@pytest.fixture
def drawn():
    """drawn(n) -> a set of n generated images, without files."""
    return drawn_set


@pytest.fixture
def written(tmp_path):
    """written(n) -> a set of n image files."""
    import numpy as np
    from PIL import Image

    from vladapt import DomainData, Item, Label

    def make(count: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        items = []
        for i in range(count):
            path = tmp_path / f"image-{i:03d}.png"
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
            items.append(Item(id=path.name, source=path, target=Label(i % 2)))
        return DomainData(items, ("even", "odd"), lambda item: np.array(Image.open(item.source).convert("RGB")))

    return make
