"""Sets of masks of every layout, read by their path alone."""

import json

import numpy as np
import pytest
from PIL import Image

from vladapt import ConfigError, DataError
from vladapt.domains.open_vocab.data import (
    hold_out,
    outlines_as_masks,
    read_detection,
    read_segmentation,
    split_novel,
)
from vladapt.domains.open_vocab.data.mask_tables import CITYSCAPES_IDS, VOC_NAMES, voc_colour

CROSS = np.array([[0, 1, 2, 2], [0, 1, 2, 255], [0, 0, 2, 2]], dtype=np.uint8)


NAMES = ("background", "cat", "dog")


def masks_of(data):
    return [data.load_mask(item) for item in data.items]


def test_numbers_are_classes_in_the_order_of_the_table_and_255_is_ignored(write_masks):
    folder = write_masks({"a": CROSS})
    (folder / "classes.json").write_text(json.dumps(["sky", "sea", "sand"]))
    data = read_segmentation(folder)
    assert data.kind == "masks" and data.class_names == ("sky", "sea", "sand")
    assert (masks_of(data)[0] == CROSS).all() and masks_of(data)[0].dtype == np.uint8
    item = data.items[0]
    assert item.target.labels == (1, 1, 1) and item.target.size == (4, 3) and data.load(item).shape == (3, 4, 3)


TABLES = [
    ("classes.txt", "sky\nsea\nsand\n"),
    ("classes.txt", "0: sky\n1: sea\n2: sand\n"),
    ("classes.json", json.dumps({"2": "sand", "0": "sky", "1": "sea"})),
    ("classes.json", json.dumps({"sky": 0, "sea": 1, "sand": 2})),
    (
        "classes.json",
        json.dumps({"classes": [{"id": n, "name": name} for n, name in enumerate(("sky", "sea", "sand"))]}),
    ),
    ("masks/classes.txt", "sky\nsea\nsand\n"),
]


@pytest.mark.parametrize(("file", "content"), TABLES)
def test_tables_of_every_shape_say_the_same(write_masks, file, content):
    folder = write_masks({"a": CROSS})
    (folder / file).write_text(content)
    data = read_segmentation(folder)
    assert data.class_names == ("sky", "sea", "sand") and (masks_of(data)[0] == CROSS).all()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.json", json.dumps({"sky": [0, 0, 255], "sea": "#00ff00"})),
        ("classes.json", json.dumps([{"name": "sky", "color": [0, 0, 255]}, {"name": "sea", "color": [0, 255, 0]}])),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,255\nsea,0,255,0\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,255::\nsea:0,255,0::\n"),
    ],
)
def test_colours_are_looked_up(write_masks, file, content):
    mask = np.array([[(0, 0, 255), (0, 255, 0)], [(9, 9, 9), (0, 255, 0)]], dtype=np.uint8)
    folder = write_masks({"a": mask})
    (folder / file).write_text(content)
    data = read_segmentation(folder)
    assert data.class_names == ("sky", "sea") and masks_of(data)[0].tolist() == [[0, 1], [255, 1]]
    assert "no class, ignored: (9, 9, 9) (in 1 masks)" in " ".join(data.notes)


def test_colours_without_a_table_say_what_to_add(write_masks):
    folder = write_masks({"a": np.array([[(0, 0, 255), (0, 255, 0)]], dtype=np.uint8)})
    with pytest.raises(DataError, match=r"store colours, and nothing says which class each is; add labelmap.txt"):
        read_segmentation(folder)


def test_palette_masks_give_their_indices_and_16_bits_their_depth(write_masks):
    folder = write_masks({"a": CROSS}, mode="P")
    (folder / "classes.txt").write_text("sky\nsea\nsand\n")
    assert (masks_of(read_segmentation(folder))[0] == CROSS).all()
    deep = np.array([[300, 7], [0, 65535]], dtype=np.uint16)
    write_masks({"a": deep})
    (folder / "classes.json").write_text(json.dumps({"300": "far", "7": "near"}))
    (folder / "classes.txt").unlink()
    assert masks_of(read_segmentation(folder))[0].tolist() == [[1, 0], [255, 255]]


def test_two_numbers_need_no_names_more_do(write_masks):
    folder = write_masks({"a": np.array([[0, 255]], dtype=np.uint8)})
    data = read_segmentation(folder)
    assert data.class_names == ("background", "foreground") and masks_of(data)[0].tolist() == [[0, 1]]
    assert "Nothing names the classes" in data.notes[0]
    named = read_segmentation(folder, class_names=["membrane", "cell"])
    assert named.class_names == ("membrane", "cell") and not named.notes
    write_masks({"a": np.array([[0, 40, 90]], dtype=np.uint8)})
    with pytest.raises(
        DataError, match=r"masks store 0, 40, 90 but nothing names them; add classes.json or give class_n"
    ):
        read_segmentation(folder)
    assert masks_of(read_segmentation(folder, class_names=["a", "b", "c"]))[0].tolist() == [[0, 1, 2]]
    with pytest.raises(DataError, match=r"class_names are 2 \(a, b\), but its masks store 3 numbers \(0, 40, 90\)"):
        read_segmentation(folder, class_names=["a", "b"])


def test_zero_may_be_no_class(write_masks):
    folder = write_masks({"a": np.array([[0, 1, 2]], dtype=np.uint8)})
    data = read_segmentation(folder, class_names=["sky", "sea"], reduce_zero_label=True)
    assert masks_of(data)[0].tolist() == [[255, 0, 1]]
    (folder / "classes.txt").write_text("background\nsky\nsea\n")
    assert read_segmentation(folder, reduce_zero_label=True).class_names == ("sky", "sea")
    assert read_segmentation(folder).class_names == ("background", "sky", "sea")


def test_unlabelled_in_a_table_is_no_class(write_masks):
    folder = write_masks({"a": np.array([[0, 1, 2]], dtype=np.uint8)})
    (folder / "semantic_classes.json").write_text(json.dumps({"0": "unlabeled", "1": "sky", "2": "sea"}))
    assert masks_of(read_segmentation(folder))[0].tolist() == [[255, 0, 1]]


def test_voc_layout_has_its_names_by_index_and_by_colour(write_masks):
    folder = write_masks({"a": np.array([[0, 15, 255]], np.uint8)}, "JPEGImages", "SegmentationClass", mode="P")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    data = read_segmentation(folder)
    assert data.class_names == VOC_NAMES and masks_of(data)[0].tolist() == [[0, 15, 255]]
    assert data.items[0].split == "val"
    assert voc_colour(15) == (192, 128, 128) and voc_colour(20) == (0, 64, 128)
    border = (224, 224, 192)
    write_masks({"a": np.array([[voc_colour(0), voc_colour(15), border]], np.uint8)}, "JPEGImages", "SegmentationClass")
    assert masks_of(read_segmentation(folder))[0].tolist() == [[0, 15, 255]]


def test_ade_layout_ignores_zero(write_masks):
    folder = write_masks({"a": np.array([[0, 1, 2]], np.uint8)}, "images/training", "annotations/training")
    write_masks({"b": np.array([[0, 1, 2]], np.uint8)}, "images/validation", "annotations/validation")
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t.2\t1\t1\t1\twall", "2\t.1\t1\t1\t1\tbuilding, edifice"]
    (folder / "objectInfo150.txt").write_text("\n".join(rows))
    data = read_segmentation(folder)
    assert data.class_names == ("wall", "building") and masks_of(data)[0].tolist() == [[255, 0, 1]]
    assert [item.split for item in data.items] == ["train", "val"]


@pytest.mark.parametrize(("ending", "stored"), [("labelTrainIds", range(19)), ("labelIds", CITYSCAPES_IDS)])
def test_cityscapes_layout_counts_19_classes(tmp_path, write_image, ending, stored):
    write_image(tmp_path / "leftImg8bit" / "train" / "bonn" / "bonn_1_leftImg8bit.png", 20, 1)
    truth = tmp_path / "gtFine" / "train" / "bonn"
    truth.mkdir(parents=True)
    Image.fromarray(np.array([[*stored, 0 if ending == "labelIds" else 255]], np.uint8)).save(
        truth / f"bonn_1_gtFine_{ending}.png"
    )
    Image.new("RGB", (20, 1)).save(truth / "bonn_1_gtFine_color.png")
    data = read_segmentation(tmp_path)
    assert len(data.class_names) == 19 and data.class_names[11] == "person"
    assert masks_of(data)[0].tolist() == [[*range(19), 255]] and data.items[0].split == "train"


def test_splits_may_be_above_or_below_the_folders_and_names_may_have_endings(write_masks):
    mask = np.array([[0, 1]], np.uint8)
    folder = write_masks({"a": mask}, "train/images", "train/masks")
    write_masks({"b": mask}, "test/images", "test/masks")
    found = {item.id: item.split for item in read_segmentation(folder).items}
    assert found == {"train/images/a.png": "train", "test/images/b.png": "test"}


def test_a_mask_named_after_its_image_with_an_ending_belongs_to_it(tmp_path, write_image):
    write_image(tmp_path / "images" / "a.png", 2, 1)
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "masks" / "a_mask.png")
    assert len(read_segmentation(tmp_path).items) == 1
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "masks" / "a_gt.png")
    with pytest.raises(DataError, match=r"may both be masks of one image"):
        read_segmentation(tmp_path)


def test_masks_of_another_size_and_without_an_image_are_listed(write_masks, write_image):
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    folder = write_masks({"a": mask, "b": mask, "c": mask})
    write_image(folder / "images" / "b.png", 5, 5)
    (folder / "images" / "c.png").unlink()
    write_image(folder / "images" / "d.png", 2, 2)
    data = read_segmentation(folder)
    assert [item.id for item in data.items] == ["images/a.png"]
    assert dict(data.skipped)["images/b.png"] == "its mask b.png is 2 x 2, the image 5 x 5; make them equal"
    assert dict(data.skipped)["masks/c.png"] == "a mask without an image of its name"
    assert "Images without a mask, left out: 1." in data.notes


def test_masks_saved_as_jpeg_are_refused(write_masks):
    folder = write_masks({"a": np.array([[0, 1]], np.uint8)}, suffix=".jpg")
    with pytest.raises(DataError, match=r"a JPEG mask, whose values are blurred; save masks as PNG"):
        read_segmentation(folder)


def test_numbers_that_no_class_has_are_ignored_and_named(write_masks):
    folder = write_masks({"a": np.array([[0, 1, 9]], np.uint8), "b": np.array([[0, 9, 9]], np.uint8)})
    (folder / "classes.txt").write_text("sky\nsea\n")
    data = read_segmentation(folder)
    assert masks_of(data)[1].tolist() == [[0, 255, 255]] and data.items[1].target.labels == (1, 0)
    assert "Values in masks that name no class, ignored: 9 (in 2 masks)." in data.notes
    (folder / "classes.txt").write_text("\n".join(f"{n}: class {n}" for n in (50, 51)))
    with pytest.raises(DataError, match=r"stored are 0, 1, 9, listed are 50, 51; correct classes.txt"):
        read_segmentation(folder)


def test_outlines_become_masks_small_on_large_and_crowds_ignored(write_coco):
    def square(x0, y0, x1, y1):
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]

    entries = [
        {"image_id": 1, "category_id": 1, "segmentation": square(2, 2, 6, 6)},
        {"image_id": 1, "category_id": 2, "segmentation": square(0, 0, 20, 20)},
        {"image_id": 1, "category_id": 1, "segmentation": square(30, 0, 40, 10), "iscrowd": 1},
        {"image_id": 1, "category_id": 1, "bbox": [30, 20, 5, 5]},
    ]
    folder = write_coco(entries)
    data = read_segmentation(folder)
    mask = masks_of(data)[0]
    assert data.class_names == ("background", "cat", "dog")
    assert (mask[3, 3], mask[10, 10], mask[15, 28], mask[5, 35], mask[22, 32]) == (1, 2, 0, 255, 255)
    assert data.items[0].target.labels == (1, 1, 1) and data.items[1].target.labels == (1, 0, 0)
    without = read_segmentation(folder, background=False)
    assert without.class_names == ("cat", "dog") and masks_of(without)[0][15, 28] == 255
    only_dogs = read_segmentation(folder, class_names=["dog"])
    assert masks_of(only_dogs)[0][10, 10] == 0 and masks_of(only_dogs)[0][3, 3] == 255
    held = hold_out(data.with_items([item.with_(split="train") for item in data.items]), split_novel(NAMES, "cat"))
    assert masks_of(held)[0][10, 10] == 2 and masks_of(held)[0][3, 3] == 255 and masks_of(held)[0][15, 28] == 0


def test_boxes_without_outlines_are_no_masks(write_coco):
    with pytest.raises(DataError, match=r"has boxes but no outlines, so no masks"):
        outlines_as_masks(read_detection(write_coco([(1, 1, [4, 5, 10, 10])])))


def test_a_choice_of_classes_ignores_the_pixels_of_others(write_masks):
    folder = write_masks({"a": CROSS})
    (folder / "classes.txt").write_text("sky\nsea\nsand\n")
    data = read_segmentation(folder, class_names=["sand", "sky"])
    assert masks_of(data)[0].tolist() == [[1, 255, 0, 0], [1, 255, 0, 255], [1, 1, 0, 0]]
    with pytest.raises(ConfigError, match=r"no 'snd', did you mean .*sand.*Asked for \(snd\), in the data \(sky, sea"):
        read_segmentation(folder, class_names=["snd"])
    with pytest.raises(ConfigError, match=r"no 'x', there are: sand, sea, sky\. Asked for \(x\)"):
        read_segmentation(folder, class_names=["x"])


@pytest.mark.parametrize(
    ("path", "items", "classes"),
    [
        ("detection_seg/coco_val128", 60, 129),
        ("detection_seg/coco_val128/instances_polygons.json", 60, 81),
        ("medical/isbi_membrane", 18, 2),
        ("remote_sensing/spacenet_road_tiles", 15, 2),
    ],
)
def test_real_sets_are_read_by_their_path(data_dir, path, items, classes):
    data = read_segmentation(data_dir / path)
    assert (len(data.items), len(data.class_names), data.skipped) == (items, classes, [])
    mask = data.load_mask(data.items[0])
    shown = {position for position, value in enumerate(data.items[0].target.labels) if value}
    assert set(np.unique(mask)) - {255} == shown
