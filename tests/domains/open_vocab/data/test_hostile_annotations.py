"""Annotations with values that would crash an encoder, fill the memory or take for ever: left out, or one line."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.coco import read_coco_crops
from vladapt.core.errors import DataError
from vladapt.domains.open_vocab.data import read_detection, read_items, read_segmentation, write_items
from vladapt.domains.open_vocab.data.masks import MaskReader
from vladapt.domains.open_vocab.data.outlines import outline_mask, valid_outline
from vladapt.domains.open_vocab.domain import OpenVocab

SIZE = (40, 30)


@pytest.mark.parametrize(
    "outline",
    [
        [[0, 0, 1e12, 0, 1e12, 1e12]],
        [[-(2**31), 0, 2**31, 5, 7, 7]],
        [[0, 0, 1e308, 0, 5, 5]],
        [[0, 0, float("inf"), 0, 5, 5]],
        [[0, 0, 10**39, 0, 5, 5]],
        [[0, 0, 40, 0] * 1_000_000],
        {"size": [30, 40], "counts": [10**12]},
        {"size": [30, 40], "counts": [-1, 1201]},
        {"size": [30, 40], "counts": "o" * 3_000_000},
        {"size": [30, 40], "counts": "\x00"},
        {"size": [10**9, 10**9], "counts": "xxx"},
        {"size": 5, "counts": "xxx"},
        {"size": None, "counts": None},
        {"counts": [1200]},
        [[1, 2]],
        [["a"] * 6],
        "polygon",
        5,
    ],
)
def test_an_outline_that_cannot_be_drawn_is_left_out(outline):
    started = time.process_time()
    assert valid_outline(outline, SIZE) is None
    assert time.process_time() - started < 5


def test_an_outline_that_leaves_its_image_a_little_is_drawn():
    outline = valid_outline([[-5, -5, 45, -5, 45, 35, -5, 35]], SIZE)
    assert outline_mask(outline, SIZE).all()
    many = [[value for n in range(2000) for value in (20 + 10 * np.cos(n / 318), 15 + 10 * np.sin(n / 318))]]
    assert outline_mask(valid_outline(many, SIZE), SIZE).sum() > 200


@pytest.mark.parametrize("outline", [[[0, 0, 1e12, 0, 1e12, 1e12]], {"size": [30, 40], "counts": [10**12]}])
def test_the_box_stays(write_coco, outline):
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": outline},
        {"image_id": 2, "category_id": 2, "bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]]},
    ]
    data = read_detection(write_coco(annotations))
    assert [len(item.target.boxes) for item in data.items] == [1, 1]
    assert any("Unusable outlines" in note for note in data.notes)
    masks = read_segmentation(write_coco(annotations))
    assert all(masks.load_mask(item).shape == (30, 40) for item in masks.items)


@pytest.mark.parametrize(
    "bbox", [[1e308, 1, 1e308, 8], [float("nan"), 1, 5, 5], [1, 1, float("inf"), 5], None, [1, 2], 5, ["a"] * 4]
)
def test_a_box_without_finite_numbers_is_one_line_or_left_out(write_coco, bbox):
    folder = write_coco([{"image_id": 1, "category_id": 1, "bbox": bbox}, (1, 1, [1, 1, 9, 9]), (2, 2, [1, 1, 9, 9])])
    with pytest.raises(DataError, match="annotation 0 has no usable box"):
        read_coco_crops(folder)
    try:
        assert [len(item.target.boxes) for item in read_detection(folder).items] == [1, 1]
    except DataError as error:
        assert "annotation 0 has no usable box" in str(error)


@pytest.mark.parametrize("value", [None, [], {}, True, float("nan")])
@pytest.mark.parametrize("place", ["image", "annotation", "category"])
def test_ids_that_are_none_are_one_line(write_coco, value, place):
    folder = write_coco([(1, 1, [1, 1, 9, 9]), (2, 2, [1, 1, 9, 9])])
    content = json.loads((folder / "instances.json").read_text())
    if place == "image":
        content["images"][0]["id"] = value
    elif place == "annotation":
        content["annotations"][0]["category_id"] = value
    else:
        content["categories"][0]["id"] = value
    (folder / "instances.json").write_text(json.dumps(content))
    for read in (read_detection, read_coco_crops):
        with pytest.raises(DataError) as caught:
            read(folder)
        assert "instances.json: " in str(caught.value)


def test_ids_of_both_kinds_are_sorted(write_coco):
    categories = [{"id": "z", "name": "cat"}, {"id": 7, "name": "dog"}]
    annotations = [{"image_id": n, "category_id": c, "bbox": [1, 1, 9, 9]} for n, c in ((1, "z"), (2, 7))]
    folder = write_coco(annotations, categories=categories)
    assert read_detection(folder).class_names == ("dog", "cat") == read_coco_crops(folder).class_names


def test_pipes_beside_the_annotations_are_not_opened(write_coco):
    folder = write_coco([(1, 1, [1, 1, 9, 9]), (2, 2, [1, 1, 9, 9])], name="some.json")
    os.mkfifo(folder / "a.json")
    os.mkfifo(folder / "data.yaml")
    assert len(read_detection(folder).items) == 2


@pytest.mark.parametrize("table", [{"sky": 10**12, "road": 1}, {"sky": [0, 0, 999], "road": [1, 1, 1]}, {"sky": 2**24}])
def test_a_table_of_numbers_that_no_mask_stores_is_one_line(tmp_path, table):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / "0.png")
    (tmp_path / "classes.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"classes.json: class '.*' has the number .*, which no mask stores"):
        read_segmentation(tmp_path)


def test_a_number_below_zero_is_passed_over(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / folder / "0.png")
    (tmp_path / "classes.json").write_text(json.dumps({"sky": 0, "road": 1, "licence plate": -1}))
    assert read_segmentation(tmp_path).class_names == ("sky", "road")


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": [1, 2]},
        {"class_names": ["a"]},
        {"items": [{"id": "x", "source": "x", "boxes": [[1, 2, 3]], "box_labels": [0]}]},
        {"items": [{"id": "x", "source": "x", "boxes": [[1, 2, 3, 4]], "box_labels": [10**9]}]},
        {"items": [{"id": "x", "source": "x", "boxes": [[1, 2, 3, 1e999]], "box_labels": [0]}]},
        {"items": [{"id": "x", "source": "x", "boxes": [[1, 2, 3, 4]], "box_labels": [0], "size": [10**9, 10**9]}]},
        {
            "items": [
                {
                    "id": "x",
                    "source": "x",
                    "boxes": [[1, 2, 3, 4]],
                    "box_labels": [0],
                    "segments": [[[0, 0, 1e12, 0, 1e12, 9]]],
                    "size": [9, 9],
                }
            ]
        },
        {"items": [{"id": 5, "source": "x"}]},
        {"items": None},
        {"kind": []},
        {"masks": {"values": [[10**12, 0]], "colours": [], "classes": None, "background": None}},
        {"masks": {"values": [], "colours": [[[1, 2, 999], 0]], "classes": None, "background": None}},
    ],
)
def test_a_file_of_items_that_says_what_cannot_be_is_one_line(write_coco, tmp_path, change):
    path = write_items(tmp_path / "items.json", read_detection(write_coco([(1, 2, [0, 0, 5, 5])])))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"items.json: not a complete file of items \(.*\); write it again"):
        read_items(path)


def test_the_limit_of_pixels_reaches_images_and_masks(write_coco, tmp_path):
    folder = write_coco([(1, 1, [1, 1, 9, 9]), (2, 2, [1, 1, 9, 9])])
    with pytest.raises(DataError, match="the limit is 1199"):
        OpenVocab().read(folder, "detection", max_pixels=1199)
    data = OpenVocab().read(folder, "detection", max_pixels=1200)
    assert data.load(data.items[0]).shape == (30, 40, 3) and data.items[0].decode == {"max_pixels": 1200}
    read = read_items(write_items(tmp_path / "items.json", data))
    assert read.items[0].decode == {"max_pixels": 1200}


def test_a_mask_above_the_limit_is_refused(tmp_path):
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "mask.png")
    from vladapt.core.contracts.items import Item, Mask

    item = Item("x", tmp_path / "x.png", {"max_pixels": 1199}, target=Mask(tmp_path / "mask.png"))
    with pytest.raises(DataError, match="the limit is 1199"):
        MaskReader(values={0: 0})(item)
