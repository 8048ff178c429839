"""Stills for labelling, as the base of all domains makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vladapt.core.contracts.domain import Domain
from vladapt.core.contracts.items import Item
from vladapt.domains.natural.domain import Natural


def test_an_image_is_one_still_and_a_clip_one_per_frame():
    draw = np.random.default_rng(0)
    image, clip = draw.integers(0, 256, (4, 5, 3)).astype(np.uint8), draw.random((3, 4, 5, 3), np.float32)
    item = Item("a", Path("a"))
    stills = Natural().picture(item, lambda asked: image if asked is item else None)
    assert list(stills) == ["image"] and (stills["image"] == image).all()
    stills = Natural().picture(item, lambda asked: clip)
    assert list(stills) == ["1 of 3", "2 of 3", "3 of 3"]
    assert (stills["2 of 3"] == np.rint(clip[1] * 255)).all()


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (6, [0, 1, 2])])
def test_three_channels_are_shown_of_any_number(channels, shown):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 5, channels)).astype(np.uint8)
    assert (Domain.as_still(pixels) == pixels[..., shown]).all()


def test_what_is_no_number_is_black():
    assert (Domain.as_still(np.full((2, 2, 3), np.nan, np.float32)) == 0).all()
    assert (Domain.as_still(np.full((2, 2, 3), 7.0, np.float32)) == 255).all()
