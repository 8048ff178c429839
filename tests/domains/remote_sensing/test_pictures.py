"""What is shown of a raster to whoever labels it: its windows, its composites, and colours of many bands."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt import load_domain

from .conftest import numbers

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")


def test_each_window_is_an_image_that_shows_its_part(write_raster):
    values = numbers(3, 64, 96, kind=np.uint8, high=255)
    file = write_raster("large.tif", values)
    domain = load_domain("remote-sensing")
    data = domain.read_images([file], cut=True, window_size=32, overlap=0)
    assert len(data.items) == 6
    for item in data.items:
        left, top, width, height = item.decode["window"]
        (still,) = domain.picture(item, data.load).values()
        assert (still == values[:, top : top + height, left : left + width].transpose(1, 2, 0)).all()


def test_composites_are_stills_of_their_own(write_raster):
    file = write_raster("bands.tif", numbers(4, 20, 20))
    domain = load_domain("remote-sensing")
    data = domain.read_images([file], bands="1,2,3+4,3,2")
    stills = domain.picture(data.items[0], data.load)
    assert list(stills) == ["1 of 2", "2 of 2"] and not (stills["1 of 2"] == stills["2 of 2"]).all()
