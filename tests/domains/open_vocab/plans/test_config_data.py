"""Data sets that a user's config names, read by mmdet's and mmseg's own classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.domains.open_vocab.plans.data import read_config_data
from vladapt.domains.open_vocab.plans.kinds import DETECTION, SEGMENTATION

XML = """<annotation><size><width>32</width><height>24</height><depth>3</depth></size>
<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>18</ymax></bndbox></object></annotation>"""


def coco_file(path, files, names=("cat", "dog"), first=1):
    content = {
        "images": [{"id": i, "file_name": f, "width": 32, "height": 24} for i, f in enumerate(files, first)],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1 + i % len(names),
                "bbox": [2, 3, 10, 12],
                "area": 120,
                "iscrowd": 0,
                "segmentation": [[2, 3, 12, 3, 12, 15]],
            }
            for i, _ in enumerate(files, first)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    path.write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path, picture):
    """A COCO-style config: four images to train, two to validate and test."""
    for name in "abcdef":
        picture(f"images/{name}.png")
    coco_file(tmp_path / "train.json", ["a.png", "b.png", "c.png", "d.png"])
    coco_file(tmp_path / "val.json", ["e.png", "f.png"])

    def dataset(file, **more):
        prefix = {"img": "images/"}
        named = {"metainfo": {"classes": ("cat", "dog")}, "ann_file": file, "data_prefix": prefix}
        return {"dataset": {"type": "CocoDataset", "data_root": f"{tmp_path}/", **named, "pipeline": [], **more}}

    loaders = {"train_dataloader": dataset("train.json"), "val_dataloader": dataset("val.json")}
    return {"default_scope": "mmdet", **loaders, "test_dataloader": dataset("val.json")}


def test_a_coco_config_is_read_with_its_splits(coco):
    data = read_config_data(coco, DETECTION)
    assert data.class_names == ("cat", "dog") and data.kind == "boxes"
    assert [item.id for item in data.split("train")] == [f"train/images/{name}.png" for name in "abcd"]
    assert [item.id for item in data.split("test")] == ["test/images/e.png", "test/images/f.png"]
    assert not data.split("val")
    first = data.items[0]
    assert first.target.boxes == ((2.0, 3.0, 12.0, 15.0),) and first.target.labels == (1,)
    assert first.target.size == (32, 24) and first.target.segments == ([[2, 3, 12, 3, 12, 15]],)
    assert data.load(first).shape == (24, 32, 3)


def test_val_is_tested_on_where_there_is_no_test(coco):
    del coco["test_dataloader"]
    assert len(read_config_data(coco, DETECTION).split("test")) == 2


def test_several_data_sets_of_a_loader_are_read_all(coco, tmp_path):
    coco_file(tmp_path / "more.json", ["e.png"])
    first = coco["train_dataloader"]["dataset"]
    both = {"type": "ConcatDataset", "datasets": [first, {**first, "ann_file": "more.json"}, first]}
    coco["train_dataloader"]["dataset"] = {"type": "RepeatDataset", "times": 2, "dataset": both}
    ids = [item.id for item in read_config_data(coco, DETECTION).split("train")]
    assert len(ids) == 9 == len(set(ids)) and "train/images/e.png" in ids and "train/images/a.png (2)" in ids


def test_classes_are_numbered_in_the_order_of_the_training_config(coco):
    """mmdet numbers them in the order of the annotation and names them in that of the config."""
    coco["train_dataloader"]["dataset"]["metainfo"] = {"classes": ("dog", "cat")}
    data = read_config_data(coco, DETECTION)
    assert data.class_names == ("dog", "cat")
    assert [item.target.labels for item in data.split("train")] == [(0,), (1,), (0,), (1,)]
    assert [item.target.labels for item in data.split("test")] == [(0,), (1,)]


def test_classes_in_another_order_in_testing_are_numbered_as_in_training(coco):
    coco["test_dataloader"]["dataset"]["metainfo"] = {"classes": ("dog", "cat")}
    del coco["val_dataloader"]
    data = read_config_data(coco, DETECTION)
    assert [item.target.labels for item in data.split("test")] == [(1,), (0,)]


@pytest.mark.parametrize("names", [("cat", "wolf"), ("Cat", "dog")])
def test_classes_that_the_annotation_lacks_are_shown_with_those_it_has(coco, names):
    """mmdet would read no box of them and say nothing."""
    coco["train_dataloader"]["dataset"]["metainfo"] = {"classes": names}
    with pytest.raises(ConfigError, match=rf"\({', '.join(names)}\).*\(cat, dog\)"):
        read_config_data(coco, DETECTION)


def test_splits_with_other_classes_are_refused(coco):
    coco["test_dataloader"]["dataset"]["metainfo"] = {"classes": ("cat",)}
    with pytest.raises(ConfigError, match=r"\(cat, dog\).*\(cat\)"):
        read_config_data(coco, DETECTION)


def test_a_file_that_is_not_there_is_named(coco):
    coco["train_dataloader"]["dataset"]["ann_file"] = "none.json"
    with pytest.raises(DataError, match=r"none\.json: .*; the config names it: correct its data_root, or give --data"):
        read_config_data(coco, DETECTION)


def test_an_unknown_data_set_is_named(coco):
    coco["train_dataloader"]["dataset"]["type"] = "CocoDatset"
    with pytest.raises(UnknownNameError, match=r"the config names 'CocoDatset'.*CocoDataset"):
        read_config_data(coco, DETECTION)


def test_configs_that_name_no_data_are_none_of_ours(coco):
    assert read_config_data({"model": {}}, DETECTION) is None
    coco["train_dataloader"]["dataset"] = {"type": "vladapt.DetectionDataset", "path": "sample"}
    assert read_config_data(coco, DETECTION) is None


@pytest.fixture
def voc(tmp_path, picture):
    """A VOC-style config of two years, repeated as mmdet has it."""
    for year, name in (("VOC2007", "000001"), ("VOC2007", "000002"), ("VOC2012", "000001")):
        picture(f"{year}/JPEGImages/{name}.jpg")
        for folder in ("Annotations", "ImageSets/Main"):
            (tmp_path / year / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / year / "Annotations" / f"{name}.xml").write_text(XML.format("dog", int(name == "000002")))
    (tmp_path / "VOC2007/ImageSets/Main/all.txt").write_text("000001\n000002\n")
    (tmp_path / "VOC2012/ImageSets/Main/all.txt").write_text("000001\n")

    def dataset(year):
        named = {"ann_file": f"{year}/ImageSets/Main/all.txt", "data_prefix": {"sub_data_root": f"{year}/"}}
        return {"type": "VOCDataset", "data_root": f"{tmp_path}/", **named, "pipeline": []}

    both = {
        "type": "ConcatDataset",
        "ignore_keys": ["dataset_type"],
        "datasets": [dataset("VOC2007"), dataset("VOC2012")],
    }
    train = {"dataset": {"type": "RepeatDataset", "times": 3, "dataset": both}}
    return {"default_scope": "mmdet", "train_dataloader": train, "val_dataloader": {"dataset": dataset("VOC2007")}}


def test_a_voc_config_is_read_with_all_its_years(voc):
    data = read_config_data(voc, DETECTION)
    assert len(data.class_names) == 20 and len(data.split("train")) == 3 and len(data.split("test")) == 2
    first, second = data.split("train")[:2]
    assert first.target.boxes == ((2.0, 3.0, 19.0, 17.0),) and data.class_names[first.target.labels[0]] == "dog"
    assert first.target.ignored is None and second.target.ignored == (True,)


def test_voc_files_without_one_of_the_classes_are_told(voc, tmp_path):
    for file in tmp_path.rglob("*.xml"):
        file.write_text(XML.format("racoon", 0))
    voc["train_dataloader"]["dataset"]["dataset"]["datasets"][0]["metainfo"] = {"classes": ("raccoon",)}
    with pytest.raises(ConfigError, match=r"\(raccoon\).*\(racoon\).*'raccoon' \('racoon'\?\)"):
        read_config_data(voc, DETECTION)


@pytest.fixture
def fields(tmp_path, picture):
    """An mmseg config; stored 0 is nothing, as in ADE."""
    for split in ("train", "val"):
        for name in "ab":
            picture(f"img/{split}/{name}.png", 3, 1)
            (tmp_path / "ann" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "ann" / split / f"{name}.png")

    def dataset(split):
        prefix = {"img_path": f"img/{split}", "seg_map_path": f"ann/{split}"}
        endings = {"img_suffix": ".png", "seg_map_suffix": ".png"}
        named = {"metainfo": {"classes": ("sky", "sea")}, "data_prefix": prefix, **endings}
        kind = {"type": "BaseSegDataset", "data_root": f"{tmp_path}/", "reduce_zero_label": True}
        return {"dataset": {**kind, **named, "pipeline": []}}

    return {"train_dataloader": dataset("train"), "val_dataloader": dataset("val")}


def test_an_mmseg_config_is_read_with_what_its_numbers_mean(fields):
    data = read_config_data(fields, SEGMENTATION)
    assert data.class_names == ("sky", "sea") and data.kind == "masks"
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [2, 0, 2]
    assert data.load_mask(data.items[0]).tolist() == [[255, 0, 1]]
    for split in ("train", "val"):
        fields[f"{split}_dataloader"]["dataset"]["reduce_zero_label"] = False
    plain = read_config_data(fields, SEGMENTATION)
    assert plain.load_mask(plain.items[0]).tolist() == [[0, 1, 255]]


def test_numbers_that_mean_other_classes_in_testing_are_refused(fields):
    fields["val_dataloader"]["dataset"]["reduce_zero_label"] = False
    with pytest.raises(ConfigError, match="use the same mask values for different classes"):
        read_config_data(fields, SEGMENTATION)


def test_masks_that_are_not_there_are_told(fields, tmp_path):
    fields["train_dataloader"]["dataset"]["data_prefix"]["img_path"] = "img/none"
    with pytest.raises((DataError, ConfigError), match="none"):
        read_config_data(fields, SEGMENTATION)
