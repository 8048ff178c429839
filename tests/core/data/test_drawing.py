"""The kit of drawn samples: identity, pixels, clouds, haze and corners."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.contracts import Label
from vladapt.core.data import Drawing


def test_an_item_is_known_by_version_and_parts_alone():
    drawing = Drawing("/code.py", "1", "/")
    item = drawing.item("a/1", "red", 3, target=Label(2), group="g", split="val", kind=2)
    assert item.id == "a/1" and item.source == Path("/code.py") and (item.group, item.split) == ("g", "val")
    assert item.decode == {"kind": 2, "digest": hashlib.sha256(b"1/red/3").hexdigest()} and item.target == Label(2)
    assert drawing.item("b", "red", 3, number=9).decode["digest"] == item.decode["digest"]
    for other in (drawing.item("a", "red", 4), Drawing("/code.py", "2", "/").item("a", "red", 3)):
        assert other.decode["digest"] != item.decode["digest"]


def test_pixels_are_clipped_and_rounded():
    pixels = Drawing.pixels(np.array([-1.0, 0.0, 0.5, 0.999, 1.0, 7.0]))
    assert pixels.dtype == np.uint8 and pixels.tolist() == [0, 0, 128, 255, 255, 255]


def test_clouds_are_smooth_and_of_deviation_one():
    clouds = Drawing.clouds(np.random.default_rng(0), 64, 4.0)
    assert clouds.shape == (64, 64) and clouds.std() == pytest.approx(1)
    assert np.abs(np.diff(clouds, axis=0)).mean() < 0.3


def test_whole_haze_leaves_its_grey_and_none_the_light():
    colours = np.array([0.2, 0.6])
    assert Drawing.hazy(colours, 0.5, 1.0, air=0.7) == pytest.approx([0.7, 0.7])
    assert Drawing.hazy(colours, 0.5, 0.0) == pytest.approx([0.1, 0.3])


def test_a_soft_edge_is_one_inside_and_half_on_the_line():
    assert Drawing.soft(np.array([-1e9, 0.0, 1e9])) == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(("count", "inner"), [(4, None), (5, 0.4)])
def test_corners_lie_on_their_circles(count, inner):
    corners = np.array(Drawing.corners((3.0, 4.0), 2.0, count, turn=0.5, inner=inner))
    reaches = np.hypot(*(corners - (3.0, 4.0)).T)
    assert corners[0] == pytest.approx([3 + 2 * np.cos(0.5), 4 + 2 * np.sin(0.5)])
    assert reaches == pytest.approx([2.0] * count if inner is None else [2.0, 0.8] * count)
