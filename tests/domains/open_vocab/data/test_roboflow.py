"""Sets as Roboflow100-VL has them: a COCO file in each of train, valid and test, and a class 0 that is none."""

import json

import numpy as np
import pytest
from PIL import Image

from vladapt import ConfigError, DataError
from vladapt.domains.open_vocab.data import read_detection

CATEGORIES = [
    {"id": 0, "name": "bees-4k2x", "supercategory": "none"},
    {"id": 1, "name": "bee", "supercategory": "bees-4k2x"},
    {"id": 2, "name": "wasp", "supercategory": "bees-4k2x"},
]
SPLITS = {"train": ("a.jpg", "b.jpg"), "valid": ("a.jpg",), "test": ("a.jpg", "c.jpg")}


@pytest.fixture
def write(tmp_path):
    """write(boxes=..., categories=..., splits=...) -> the folder; ids of images begin anew in each split, as there."""

    def make(boxes=((1, [2, 3, 10, 8]), (2, [20, 4, 6, 9])), categories=None, splits=tuple(SPLITS)):
        for number, split in enumerate(splits):
            (tmp_path / split).mkdir()
            for name in SPLITS[split]:
                pixels = np.random.default_rng([number, *name.encode()]).integers(0, 255, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name)
            listed = [
                {"id": n, "file_name": name, "width": 40, "height": 30, "extra": {"name": name}}
                for n, name in enumerate(SPLITS[split])
            ]
            drawn = [
                {"id": n, "image_id": 0, "category_id": label, "bbox": box, "area": 1, "segmentation": [], "iscrowd": 0}
                for n, (label, box) in enumerate(boxes)
            ]
            named = (categories or {}).get(split, CATEGORIES)
            content = {"info": {}, "licenses": [], "images": listed, "annotations": drawn, "categories": named}
            (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
        return tmp_path

    return make


def test_the_class_that_groups_the_others_is_none_and_a_note_says_so(write):
    data = read_detection(write())
    assert data.class_names == ("bee", "wasp") and data.items[0].target.labels == (0, 1)
    assert "Classes that name a group of others but have no box, left out: 1." in data.notes


def test_valid_is_val_and_images_of_one_name_are_those_of_their_split(write):
    data = read_detection(write())
    assert {item.id: item.split for item in data.items} == {
        **{f"train/{name}": "train" for name in ("a.jpg", "b.jpg")},
        **{f"test/{name}": "test" for name in ("a.jpg", "c.jpg")},
        "valid/a.jpg": "val",
    }
    pixels = [data.load(item) for item in data.items if item.source.name == "a.jpg"]
    assert len(pixels) == 3 and not any(np.array_equal(pixels[0], other) for other in pixels[1:])
    counts = {item.id: len(item.target.boxes) for item in data.items}
    assert counts == {"train/a.jpg": 2, "train/b.jpg": 0, "valid/a.jpg": 2, "test/a.jpg": 2, "test/c.jpg": 0}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_grouping_class_that_has_a_box_somewhere_is_one(write, split):
    folder = write()
    file = folder / split / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(content))
    assert read_detection(folder).class_names == ("bees-4k2x", "bee", "wasp")


def test_a_class_of_the_first_splits_alone_keeps_its_name(write):
    """As in sets for few shots: what has no box in a split may not be listed there, and ids may stand for others."""
    shifted = [CATEGORIES[0], {"id": 1, "name": "wasp", "supercategory": "bees-4k2x"}]
    data = read_detection(write(boxes=((1, [2, 3, 10, 8]),), categories={"test": shifted}))
    assert set(data.class_names) == {"bee", "wasp"}
    named = {item.id: [data.class_names[label] for label in item.target.labels] for item in data.items}
    assert named["train/a.jpg"] == ["bee"] and named["test/a.jpg"] == ["wasp"]


def test_a_set_without_a_test_split_and_a_class_of_ones_own_name(write):
    own = [{"id": 0, "name": "bee", "supercategory": "bee"}, {"id": 1, "name": "wasp", "supercategory": "none"}]
    data = read_detection(write(boxes=((1, [2, 3, 10, 8]),), categories=dict.fromkeys(SPLITS, own), splits=("train",)))
    assert data.class_names == ("bee", "wasp") and {item.split for item in data.items} == {"train"}


def test_the_grouping_class_cannot_be_asked_for(write):
    folder = write()
    with pytest.raises(ConfigError, match="the data have no 'bees-4k2x'"):
        read_detection(folder, class_names=["bees-4k2x"])


def test_a_set_without_a_box_is_told(write):
    with pytest.raises(DataError, match="no usable box"):
        read_detection(write(boxes=()))
