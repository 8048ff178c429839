"""Heat maps on the pixels of the image, whatever the tower's transform did to positions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.explanation.placing import on_image

TOWERS = SimpleNamespace(image_mean=(0.48, 0.46, 0.41), image_std=(0.27, 0.26, 0.28))


def transform(size, mode):
    return Preprocess(size, TOWERS.image_mean, TOWERS.image_std, mode=mode)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(120, 200), (200, 120), (17, 23), (64, 64)])
def test_a_map_lies_where_the_tower_saw_it(mode, size):
    """A smooth picture, as the tower takes it, is put back on itself."""
    rows, columns = np.meshgrid(*(np.linspace(0, 1, side) for side in size), indexing="ij")
    picture = np.float32(0.5 + 0.3 * np.sin(3 * rows) * np.cos(2 * columns))
    of = transform(32, mode)
    seen = of(np.repeat(picture[..., None], 3, axis=2))[0] * TOWERS.image_std[0] + TOWERS.image_mean[0]
    placed = on_image(seen, size, of, TOWERS)
    height, width = size
    side = min(size)
    inside = np.zeros(size, dtype=bool)
    top, left = ((height - side) // 2, (width - side) // 2) if mode == "shortest" else (0, 0)
    tall, wide = (side, side) if mode == "shortest" else size
    margin = 1 + side // 32
    inside[top + margin : top + tall - margin, left + margin : left + wide - margin] = True
    assert np.abs(placed - picture)[inside].max() < 0.02
    outside = np.ones(size, dtype=bool)
    outside[max(0, top - 2) : top + tall + 2, max(0, left - 2) : left + wide + 2] = False
    assert not placed[outside].any()


def test_an_image_of_one_pixel_has_a_map():
    assert on_image(torch.full((8, 8), 0.5), (1, 1), transform(8, "squash"), TOWERS) == pytest.approx(0.5)
