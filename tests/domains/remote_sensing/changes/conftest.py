"""Small pairs of dates in the layouts that are read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    """folders(masks, below="", names=None): A, B and label with a pair for each mask (H, W); returns the folder."""

    def write(masks, below="", names=None):
        random = np.random.default_rng(len(below))
        for number, mask in enumerate(masks):
            name = f"{below}{number}" if names is None else names[number]
            dates = random.integers(0, 255, (2, *np.shape(mask), 3), np.uint8)
            for folder, pixels in zip(("A", "B", "label"), (*dates, np.asarray(mask, np.uint8))):
                file = tmp_path / below / folder / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
        return tmp_path

    return write


def square(side=16, at=(2, 3, 5), value=1, rest=0):
    """(side, side) a mask with a square of changed pixels: top, left and side."""
    mask = np.full((side, side), rest, np.uint8)
    top, left, size = at
    mask[top : top + size, left : left + size] = value
    return mask


@pytest.fixture(name="square")
def square_fixture():
    return square
