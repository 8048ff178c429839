"""COCO and VOC boxes as crops."""

import json

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.coco import read_coco_crops
from vladapt.core.data.voc import read_voc_crops
from vladapt.core.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(root / name)


def coco(*boxes, images=("a.png", "b.png"), categories=((7, "wbc"), (3, "rbc"), (9, "none"))):
    """boxes: (image id, category id, [x, y, w, h], crowd)."""
    return {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(images)],
        "categories": [{"id": n, "name": name} for n, name in categories],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(boxes)
        ],
    }


USUAL = ((0, 7, [10, 5, 20, 10], 0), (0, 3, [0, 0, 8, 8], 0), (1, 3, [50, 30, 30, 30], 0))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("place", ["", "images/", "JPEGImages/"])
def test_one_item_a_box_cut_from_its_image(tmp_path, place):
    put(tmp_path, f"{place}a.png", f"{place}b.png")
    write(tmp_path / "instances.json", coco(*USUAL))
    data = read_coco_crops(tmp_path)
    assert data.class_names == ("rbc", "wbc") and "Classes without a box, left out: 1." in data.notes
    assert [i.id for i in data.items] == [f"{place}a.png#box1", f"{place}a.png#box2", f"{place}b.png#box1"]
    assert [i.target.index for i in data.items] == [1, 0, 0]
    assert [i.group for i in data.items] == [f"{place}a.png", f"{place}a.png", f"{place}b.png"]
    np.testing.assert_array_equal(data.load(data.items[0]), PIXELS[5:15, 10:30])
    assert data.load(data.items[2]).shape == (10, 10, 3)


def test_a_table_beside_them_has_columns_of_their_images(tmp_path):
    put(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path / "instances.json", coco(*USUAL))
    assert read_coco_crops(tmp_path).columns() is None
    (tmp_path / "sites.csv").write_text("file_name,site\na.png,north\nb.png,south\n")
    assert read_coco_crops(tmp_path).columns().cells("site") == {"images/a.png": "north", "images/b.png": "south"}


def test_crowds_and_small_boxes_are_left_out_and_counted(tmp_path):
    put(tmp_path, "a.png", "b.png")
    extra = ((0, 7, [0, 0, 30, 30], 1), (1, 7, [0, 0, 30, 3], 0), (1, 7, [0, 0, -5, 9], 0))
    write(tmp_path / "instances.json", coco(*USUAL, *extra))
    data = read_coco_crops(tmp_path)
    assert len(data.items) == 3
    assert "Crowd boxes, left out: 1." in data.notes
    assert "Boxes with a side under 4 pixels, left out: 2." in data.notes
    assert len(read_coco_crops(tmp_path, min_side=2).items) == 4


def test_splits_of_several_files(tmp_path):
    put(tmp_path, "train2017/a.png", "val2017/b.png")
    write(tmp_path / "annotations/instances_train2017.json", coco(*USUAL[:2], images=["a.png"]))
    write(tmp_path / "annotations/instances_val2017.json", coco((0, 3, [0, 0, 9, 9], 0), images=["b.png"]))
    assert {i.id: i.split for i in read_coco_crops(tmp_path).items} == {
        "train2017/a.png#box1": "train",
        "train2017/a.png#box2": "train",
        "val2017/b.png#box1": "val",
    }


def test_splits_of_roboflow_folders(tmp_path):
    put(tmp_path, "train/a.png", "valid/a.png")
    write(tmp_path / "train/_annotations.coco.json", coco(*USUAL[:2], images=["a.png"]))
    write(tmp_path / "valid/_annotations.coco.json", coco(USUAL[1], images=["a.png"]))
    assert {i.id: i.split for i in read_coco_crops(tmp_path).items} == {
        "train/a.png#box1": "train",
        "train/a.png#box2": "train",
        "valid/a.png#box1": "val",
    }


def test_two_files_that_tell_no_split(tmp_path):
    write(tmp_path / "instances_a.json", coco(*USUAL))
    write(tmp_path / "instances_b.json", coco(*USUAL))
    with pytest.raises(DataError, match="give one of them"):
        read_coco_crops(tmp_path)


def test_a_missing_image_is_listed_once(tmp_path):
    put(tmp_path, "a.png")
    write(tmp_path / "instances.json", coco(*USUAL))
    data = read_coco_crops(tmp_path)
    assert len(data.items) == 2 and [name for name, _ in data.skipped] == ["b.png"]


@pytest.mark.parametrize(
    "content, match",
    [
        ({"images": []}, "no 'images' and 'annotations'"),
        (coco(*USUAL, images=["../a.png", "b.png"]), "leaves the folder"),
        (coco((0, 7, [1, 2, 3], 0)), "annotation 0"),
        (coco((0, 99, [1, 2, 3, 4], 0)), "annotation 0"),
        (coco(USUAL[0]), "1 class"),
        ({**coco(*USUAL), "categories": [{"id": 1}]}, "category"),
        (coco(*USUAL, categories=((7, "wbc"), (3, "rbc"), (7, "fox"))), "category id 7 stands for 'wbc' and for 'fox'"),
    ],
)
def test_malformed_coco(tmp_path, content, match):
    put(tmp_path / "set", "a.png", "b.png")
    put(tmp_path, "a.png")
    write(tmp_path / "set/instances.json", content)
    with pytest.raises(DataError, match=match):
        read_coco_crops(tmp_path / "set")


def voc(filename, *boxes, head=""):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for name, x0, y0, x1, y1 in boxes
    )
    return f"{head}<annotation><filename>{filename}</filename>{objects}</annotation>"


def put_voc(root):
    put(root, "JPEGImages/a.png", "JPEGImages/b.png")
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text(voc("a.png", ("wbc", 10, 5, 30, 15), ("rbc", 0, 0, 8, 8)))
    (root / "Annotations/b.xml").write_text(voc("renamed.jpg", ("rbc", 20, 20, 40, 40), ("rbc", 5, 5, 6, 9)))


@pytest.mark.parametrize("inner", ["", "Annotations"])
def test_voc_boxes(tmp_path, inner):
    put_voc(tmp_path)
    data = read_voc_crops(tmp_path / inner)
    assert data.class_names == ("rbc", "wbc") and [i.target.index for i in data.items] == [1, 0, 0]
    assert data.items[2].id == "JPEGImages/b.png#box1" and data.items[2].group == "JPEGImages/b.png"
    np.testing.assert_array_equal(data.load(data.items[0]), PIXELS[5:15, 10:30])
    assert len(read_voc_crops(tmp_path, min_side=1).items) == 4


def test_voc_image_sets_give_the_splits(tmp_path):
    put_voc(tmp_path)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("b 1\n\n")
    assert [i.split for i in read_voc_crops(tmp_path).items] == ["train", "train", "test"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused_before_entities_expand(tmp_path, encoding):
    put_voc(tmp_path)
    bomb = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'
    (tmp_path / "Annotations/c.xml").write_bytes(voc("a.png", head=bomb).encode(encoding))
    with pytest.raises(DataError, match=r"c\.xml: declares a document type"):
        read_voc_crops(tmp_path)


@pytest.mark.parametrize(
    "text, match",
    [
        ("<annotation>", "not valid XML"),
        (voc("a.png", ("wbc", "x", 5, 30, 15)), "no usable bndbox"),
        (voc("a.png", ("", 1, 5, 30, 15)), "no name"),
        (voc("../../out.png", ("wbc", 1, 5, 30, 15)), "leaves the folder"),
    ],
)
def test_malformed_voc(tmp_path, text, match):
    root = tmp_path / "set"
    put_voc(root)
    (root / "Annotations/c.xml").write_text(text)
    with pytest.raises(DataError, match=match):
        read_voc_crops(root)
