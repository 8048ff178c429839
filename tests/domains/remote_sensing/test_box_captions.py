"""Captions made of boxes and masks, as RemoteCLIP makes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from vladapt.core.data import Box
from vladapt.core.errors import DataError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.box_captions import MANY, boxes_of_mask, captions_of_boxes, english_plural

SIZE = (100, 200)
CENTRE, CORNER = (90.0, 45.0, 110.0, 55.0), (0.0, 0.0, 10.0, 10.0)


def test_place_and_number_are_said():
    made = captions_of_boxes([Box("plane", CENTRE), Box("ship", CORNER), Box("ship", CORNER)], SIZE, "a.png")
    first, second, *others = made.texts
    assert first == "there is a plane at the center of the image."
    assert second == "there are two ships away from the center."
    assert len(others) == 3 and all("a plane" in text or "two ships" in text for text in others)
    assert made.numbers() == {"plane": 1, "ship": 2}


def test_a_place_without_objects_is_not_named():
    first, second, *_ = captions_of_boxes([Box("ship", CORNER), Box("harbor", CORNER)], SIZE, "a.png").texts
    assert first == "there is a harbor and a ship in the image."
    assert second == "there is a harbor and a ship away from the center."


def test_more_than_ten_are_vague_in_words_and_exact_in_numbers():
    made = captions_of_boxes([Box("vehicle", CORNER)] * 11, SIZE, "a.png")
    assert all(any(f"{word} vehicles" in text for word in MANY) for text in made.texts)
    assert made.numbers() == {"vehicle": 11}
    assert "ten vehicles" in captions_of_boxes([Box("vehicle", CORNER)] * 10, SIZE, "a.png").texts[1]


BOX = st.builds(Box, st.sampled_from(["plane", "ship", "harbor"]), st.sampled_from([CENTRE, CORNER]))


@settings(max_examples=25, deadline=None)
@given(boxes=st.lists(BOX, min_size=1), seed=st.integers(0, 5))
def test_draws_are_a_function_of_seed_and_name(boxes, seed):
    made = captions_of_boxes(boxes, SIZE, "a.png", seed)
    assert made == captions_of_boxes(boxes, SIZE, "a.png", seed) and len(made.texts) == 5
    assert sum(made.numbers().values()) == len(boxes)


def test_another_seed_or_name_draws_others():
    boxes = [Box(name, CORNER) for name in ("plane", "ship", "harbor", "bridge")]
    drawn = {captions_of_boxes(boxes, SIZE, name, seed).texts[2:] for seed in range(3) for name in ("a", "b")}
    assert len(drawn) == 6


@pytest.mark.parametrize(
    ("name", "wanted"), [("ship", "ships"), ("bus", "buses"), ("ferry", "ferries"), ("bay", "bays"), ("arch", "arches")]
)
def test_plurals(name, wanted):
    assert english_plural(name) == wanted


# masks ----------------------------------------------------------------------------------------------------------------


def test_a_region_in_the_hole_of_another_has_no_box():
    mask = np.zeros((20, 20), np.uint8)
    mask[2:12, 3:15] = 1
    mask[4:10, 5:13] = 0
    mask[6:8, 7:11] = 1  # in the hole
    mask[12, 15] = 1  # joined by a corner
    assert boxes_of_mask(mask, ("background", "road"), {0}, 1) == [Box("road", (3.0, 2.0, 16.0, 13.0))]


def test_small_regions_and_ignored_values_have_no_box():
    mask = np.full((20, 20), 255, np.uint8)
    mask[0:4, 0:4], mask[10:13, 10:15] = 1, 1  # 16 and 15 pixels
    assert boxes_of_mask(mask, ("background", "road"), {0}) == [Box("road", (0.0, 0.0, 4.0, 4.0))]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.3))
def test_boxes_of_regions_without_holes_are_those_of_their_pixels(seed, share):
    mask = np.random.default_rng(seed).random((16, 16)) < share
    labels, _ = ndimage.label(ndimage.binary_fill_holes(mask, np.ones((3, 3))), np.ones((3, 3)))
    wanted = sorted((y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels))
    made = boxes_of_mask(mask.astype(np.uint8), ("background", "road"), {0}, 1)
    assert sorted((y0, x0, y1, x1) for x0, y0, x1, y1 in (box.corners for box in made)) == wanted


# reading --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (200, 100)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def test_boxes_of_coco_become_captioned_images(images):
    listed = [{"id": i, "file_name": f"images/{name}.png"} for i, name in enumerate("abc")]
    boxes = [{"id": 1, "image_id": 0, "category_id": 7, "bbox": [90, 45, 20, 10]}]
    boxes += [{"id": 2 + i, "image_id": 1, "category_id": 8, "bbox": [0, 0, 9, 9]} for i in range(12)]
    categories = [{"id": 7, "name": "small-vehicle"}, {"id": 8, "name": "storage_tank"}]
    file = images / "instances_train.json"
    file.write_text(json.dumps({"images": listed, "annotations": boxes, "categories": categories}))
    for path in (file, images):
        data = RemoteSensing().read(path, "retrieval")
        assert data.kind == "captions" and [item.id for item in data.items] == ["images/a.png", "images/b.png"]
        assert data.items[0].captions()[0] == "there is a small vehicle at the center of the image."
        assert data.items[1].target.numbers() == {"storage tank": 12}
        assert data.load(data.items[0]).shape == (100, 200, 3)


def test_masks_become_captioned_images(images):
    (images / "masks").mkdir()
    mask = np.zeros((100, 200), np.uint8)
    mask[0:10, 0:50], mask[50:60, 100:110] = 1, 1
    Image.fromarray(mask).save(images / "masks" / "a.png")
    Image.fromarray(np.zeros_like(mask)).save(images / "masks" / "b.png")
    data = RemoteSensing().read(images, "retrieval", class_names="background,road")
    assert len(data.items) == 1 and data.items[0].target.numbers() == {"road": 2}
    assert data.items[0].captions()[0] == "there is a road at the center of the image."
    assert "Images without boxes, left out: 1." in data.notes
    with pytest.raises(DataError, match=r"what the values of its masks mean; name them by --set data\.class_names="):
        RemoteSensing().read(images, "retrieval")
    with pytest.raises(DataError, match=r"a\.png: has the value 1, but only 1 classes are named"):
        RemoteSensing().read(images, "retrieval", class_names="background")
