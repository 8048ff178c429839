"""Brightness, sharpness, aspect and object size of images."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.items import Boxes, DomainData, Item, Label, Mask
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.robustness.image_factors import (
    aspect,
    brightness,
    check_factors,
    factor_values,
    object_size,
    sharpness,
)

CHECKERS = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((1, 1)))[..., None].repeat(3, axis=2)


def data_of(*items: Item, load=None, **more) -> DomainData:
    return DomainData(list(items), ("background", "cat"), load or (lambda item: CHECKERS), **more)


def test_brightness_is_the_mean_grey_level_at_any_depth():
    assert brightness(np.full((4, 4, 3), 51, np.uint8)) == pytest.approx(0.2)
    assert brightness(np.full((4, 4, 3), 0.2, np.float32)) == pytest.approx(0.2)
    green, blue = (np.zeros((4, 4, 3), np.uint8) for _ in range(2))
    green[..., 1] = blue[..., 2] = 255
    assert brightness(green) == pytest.approx(0.587) and brightness(blue) == pytest.approx(0.114)
    clip = np.stack([np.zeros((4, 4, 3)), np.ones((4, 4, 3))])
    assert brightness(clip) == pytest.approx(0.5) and brightness(clip[..., :1]) == pytest.approx(0.5)


def test_sharpness_is_the_variance_of_the_laplacian():
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert sharpness(image) == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var(), rel=0.01)  # which rounds the grey
    assert sharpness(np.full((8, 8, 3), 70, np.uint8)) == pytest.approx(0)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5)
    assert sharpness(image) > 5 * sharpness(blurred)
    assert sharpness((image / 255).astype(np.float32)) == pytest.approx(sharpness(image), rel=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_aspect_is_width_by_height_of_images_and_clips(height, width, clip):
    assert aspect(np.zeros((*((2,) if clip else ()), height, width, 3))) == width / height


def test_the_size_of_an_object_is_that_of_its_box_or_of_its_pixels():
    boxes = Boxes(((0, 0, 4, 9), (1, 1, 3, 3)), (1, 1))
    box = Item("a", Path("a"), {"box": [2, 2, 6, 18]}, Label(1))
    assert object_size(data_of(), box) == 8
    assert object_size(data_of(), replace(box, target=boxes)) == 6  # the largest
    assert object_size(data_of(), replace(box, target=Mask(outlines=boxes))) == 6
    mask = np.zeros((6, 6), np.uint8)
    mask[:2, :2], mask[5] = 1, 255  # which is ignored
    assert object_size(data_of(load_mask=lambda item: mask), replace(box, target=Mask(Path("m")))) == 2
    assert math.isnan(object_size(data_of(), Item("b", Path("b"), target=Label(0))))
    assert math.isnan(object_size(data_of(), replace(box, apart=True)))  # a window, whatever it shows


def test_values_are_those_of_each_image_in_order_and_none_of_what_cannot_be_read():
    def load(item):
        if item.id == "broken":
            raise DataError("broken")
        return np.full((2, 4, 3), int(item.id), np.uint8)

    items, seen = [Item(name, Path(name)) for name in ("0", "broken", "255")], []
    of = factor_values(["brightness", "aspect"], data_of(*items, load=load), items, lambda *at: seen.append(at))
    assert of["brightness"] == pytest.approx([0, math.nan, 1], nan_ok=True)
    assert of["aspect"] == pytest.approx([2, math.nan, 2], nan_ok=True) and seen[-1] == (3, 3)


def test_factors_that_cannot_be_computed_are_refused():
    item = Item("a", Path("a"), target=Label(0))
    with pytest.raises(ConfigError, match="--by object-size: photos has no boxes and no masks"):
        check_factors(["object-size"], data_of(item, name="photos"))
    check_factors(["object-size"], data_of(item, replace(item, decode={"box": [0, 0, 1, 1]})))
    with pytest.raises(ConfigError, match=r"--by sharpness: rows has no images to measure.*array 'sharpness'"):
        check_factors(["sharpness"], data_of(item, name="rows", has_images=False))
    check_factors([], data_of(item, has_images=False))
