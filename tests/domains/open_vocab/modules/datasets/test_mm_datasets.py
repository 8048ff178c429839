"""The sets of the domain in pipelines of mmdet and mmseg."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt import ConfigError, DataError
from vladapt.domains.open_vocab.data import read_detection, read_segmentation, write_items
from vladapt.registry import DATASETS, TRANSFORMS

BOXES = [
    {"type": "vladapt.LoadItemImage"},
    {"type": "mmdet.LoadAnnotations", "with_bbox": True},
    {"type": "mmdet.PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "instances", "facts")},
]
MASKS = [{"type": "vladapt.LoadItemImage"}, {"type": "vladapt.LoadSegmentation"}, {"type": "mmseg.PackSegInputs"}]


def picture(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def coco(tmp_path):
    """Six images of a cat and a dog with outlines, one crowd, and an image of nothing."""
    square = [[4, 5, 14, 5, 14, 15, 4, 15]]
    entries, images = [], []
    for number in range(1, 7):
        picture(tmp_path / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for category in (1, 2):
            outlined = {"bbox": [4, 5, 10, 10], "segmentation": square}
            entries.append({"id": len(entries), "image_id": number, "category_id": category, **outlined})
    picture(tmp_path / "images" / "empty.png")
    images.append({"id": 7, "file_name": "empty.png"})
    entries.append({"id": 99, "image_id": 1, "category_id": 1, "bbox": [20, 5, 10, 10], "iscrowd": 1})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": entries, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def masks(tmp_path):
    for name in "abcd":
        picture(tmp_path / "images" / f"{name}.png", 3, 1)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    return tmp_path


def detection(**options):
    return DATASETS.build({"type": "vladapt.DetectionDataset", "pipeline": BOXES, "serialize_data": False, **options})


def segmentation(**options):
    return DATASETS.build(
        {"type": "vladapt.SegmentationDataset", "pipeline": MASKS, "serialize_data": False, **options}
    )


def test_boxes_reach_mmdet_with_crowds_apart(coco):
    data = detection(path=str(coco), split="all", serialize_data=True)
    assert len(data) == 7 and data.metainfo["classes"] == ("cat", "dog")
    sample = data[0]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [0, 1]
    assert sample.gt_instances.bboxes.tensor.tolist() == [[4, 5, 14, 15]] * 2
    assert sample.ignored_instances.bboxes.tensor.tolist() == [[20, 5, 30, 15]]
    assert sample.ori_shape == (30, 40) and len(sample.instances) == 3
    pickle.dumps(data)


def test_outlines_reach_mmdet_as_masks(coco):
    pipeline = [BOXES[0], {**BOXES[1], "with_mask": True}, BOXES[2]]
    sample = detection(path=str(coco), split="all", pipeline=pipeline)[0]["data_samples"]
    assert sample.gt_instances.masks.masks.sum(axis=(1, 2)).tolist() == [100, 100]


def test_options_choose_what_trains(coco):
    whole = detection(path=str(coco))
    assert [len(detection(path=str(coco), shots=k)) for k in (1, 2)] == [1, 2]
    assert detection(path=str(coco), classes="dog").metainfo["classes"] == ("dog",)
    assert detection(path=str(coco), metainfo={"classes": ["dog"]})[0]["data_samples"].gt_instances.labels.tolist() == [
        0
    ]
    assert detection(path=str(coco), novel="dog").metainfo["classes"] == ("cat",)
    assert detection(path=str(coco), novel="dog", split="test").metainfo["classes"] == ("cat", "dog")
    ids = [
        {sample["item_id"] for sample in data} for data in (raw(whole), raw(detection(path=str(coco), split_seed=1)))
    ]
    assert ids[0] != ids[1]
    drawn = [raw(detection(path=str(coco), shots=1, seed=seed))[0]["item_id"] for seed in range(4)]
    assert len(set(drawn)) > 1
    assert {
        n["ignore_flag"] for s in raw(detection(path=str(coco), classes="cat", shots=1)) for n in s["instances"]
    } >= {0}


def raw(data):
    return [data.get_data_info(number) for number in range(len(data))]


def test_images_of_nothing_leave_training_where_asked(coco):
    assert len(detection(path=str(coco), split="all", filter_cfg={"filter_empty_gt": True})) == 6
    assert len(detection(path=str(coco), split="all", filter_cfg={"filter_empty_gt": True}, test_mode=True)) == 7
    with pytest.raises(DataError, match="keeps none of 7 images; relax it"):
        detection(path=str(coco), split="all", filter_cfg={"min_size": 31})


def test_a_file_of_items_is_what_trains(coco, tmp_path):
    data = read_detection(coco)
    chosen = data.with_items([item.with_(split="train") for item in data.items[:2]])
    file = write_items(tmp_path / "work" / "items.json", chosen)
    assert [info["item_id"] for info in raw(detection(items_json=str(file)))] == [item.id for item in chosen.items]
    with pytest.raises(DataError, match="holds boxes, but masks are needed"):
        segmentation(items_json=str(file))


def test_class_names_that_the_data_do_not_have_are_refused(coco):
    with pytest.raises(ConfigError, match=r"the data have no 'dgo', did you mean dog\?"):
        detection(path=str(coco), classes=["cat", "dgo"])


def test_masks_reach_mmseg_as_class_numbers(masks):
    data = segmentation(path=str(masks), split="all")
    assert len(data) == 4 and data.metainfo["classes"] == ("sky", "sea")
    assert data[0]["data_samples"].gt_sem_seg.data.tolist() == [[[0, 1, 255]]]
    other = segmentation(path=str(masks), split="all", classes="sea")
    assert other[0]["data_samples"].gt_sem_seg.data.tolist() == [[[255, 0, 255]]]
    pickle.dumps(data)


def test_masks_from_outlines_and_files_of_items(coco, masks, tmp_path):
    drawn = segmentation(path=str(coco / "instances.json"), split="all")
    assert drawn.metainfo["classes"] == ("background", "cat", "dog")
    truth = drawn[0]["data_samples"].gt_sem_seg.data[0]
    assert truth[10, 10] in (1, 2) and truth[10, 25] == 255 and truth[0, 0] == 0
    assert segmentation(path=str(coco / "instances.json"), split="all", background=False).metainfo["classes"] == (
        "cat",
        "dog",
    )
    file = write_items(tmp_path / "items.json", read_segmentation(masks, class_names=["sea"]))
    again = segmentation(items_json=str(file), split="all")
    assert again[0]["data_samples"].gt_sem_seg.data.tolist() == [[[255, 0, 255]]]


def test_shots_zero_label_and_novel_of_masks(masks):
    assert len(segmentation(path=str(masks), split="train", shots=1)) == 1
    reduced = segmentation(path=str(masks), split="all", reduce_zero_label=True)
    assert reduced.metainfo["classes"] == ("sea",)
    assert reduced[0]["data_samples"].gt_sem_seg.data.tolist() == [[[255, 0, 255]]]
    base = segmentation(path=str(masks), split="train", novel="sea")
    assert base.metainfo["classes"] == ("sky",)
    assert base[0]["data_samples"].gt_sem_seg.data.tolist() == [[[0, 255, 255]]]


def test_images_of_any_mode_load_as_eight_bits(tmp_path):
    grey = np.array([[0, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.new("RGBA", (2, 1), (255, 0, 0, 255)).save(tmp_path / "colour.png")
    load = TRANSFORMS.build({"type": "vladapt.LoadItemImage"})
    deep = load({"img_path": str(tmp_path / "deep.png")})
    assert deep["img"].tolist() == [[[0] * 3, [255] * 3]] and deep["img"].dtype == np.uint8
    assert deep["img_shape"] == deep["ori_shape"] == (1, 2)
    colour = {"img_path": str(tmp_path / "colour.png")}
    assert load(dict(colour))["img"][0, 0].tolist() == [0, 0, 255]
    rgb = TRANSFORMS.build({"type": "vladapt.LoadItemImage", "channels": "rgb", "to_float32": True})
    assert rgb(dict(colour))["img"][0, 0].tolist() == [255, 0, 0] and rgb(dict(colour))["img"].dtype == np.float32
    with pytest.raises(ConfigError, match="channels 'hsv'; give one of bgr, rgb"):
        TRANSFORMS.build({"type": "vladapt.LoadItemImage", "channels": "hsv"})


def test_masks_of_foreign_data_sets_are_read_at_full_depth(tmp_path):
    Image.fromarray(np.array([[0, 1, 300, 255]], np.uint16)).save(tmp_path / "a.png")
    load = TRANSFORMS.build({"type": "vladapt.LoadSegmentation"})
    results = {"img_path": "a.jpg", "seg_map_path": str(tmp_path / "a.png"), "reduce_zero_label": False}
    assert load(dict(results))["gt_seg_map"].tolist() == [[0, 1, 255, 255]]
    assert load({**results, "reduce_zero_label": True})["gt_seg_map"].tolist() == [[255, 0, 255, 254]]
    assert load({**results, "label_map": {0: 1, 1: 255}})["gt_seg_map"].tolist() == [[1, 255, 255, 255]]
    with pytest.raises(DataError, match="a mask of 4 x 1 for an image of 5 x 1; make them equal"):
        load({**results, "ori_shape": (1, 5)})
