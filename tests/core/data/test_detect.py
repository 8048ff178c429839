"""The reader is chosen by looking at the path."""

import json
from collections import Counter

import pytest
from PIL import Image

from vladapt.core.data.detect import read_any
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import ConfigError, DataError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(root / name)


BOXES = {
    "images": [{"id": 0, "file_name": "a/1.png"}],
    "categories": [{"id": 0, "name": "box-x"}, {"id": 1, "name": "box-y"}],
    "annotations": [{"image_id": 0, "category_id": c, "bbox": [0, 0, 9, 9]} for c in (0, 1)],
}
SPLIT = {"train": [["a/1.png", 0, "zhou-a"]], "test": [["b/2.png", 1, "zhou-b"]]}


@pytest.fixture
def folder(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    return tmp_path


def test_class_folders_win_over_a_table_of_another_name(folder):
    (folder / "labels_source.csv").write_text("image,label\n0,X\n1,Y\n")
    assert read_any(folder).class_names == ("a", "b")


def test_the_order_in_which_a_folder_is_judged(folder):
    (folder / "instances.json").write_text(json.dumps(BOXES))
    assert read_any(folder).class_names == ("box-x", "box-y")
    (folder / "metadata.csv").write_text("image,label\na/1.png,table-x\nb/2.png,table-y\n")
    assert read_any(folder).class_names == ("table-x", "table-y")
    (folder / "split_zhou_Set.json").write_text(json.dumps(SPLIT))
    assert read_any(folder).class_names == ("zhou-a", "zhou-b")


def test_annotations_folder_means_voc(folder):
    (folder / "Annotations").mkdir()
    box = "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>voc-{n}</name>{box}</object>" for n in "xy")
    (folder / "Annotations/1.xml").write_text(f"<annotation><filename>a/1.png</filename>{objects}</annotation>")
    assert read_any(folder).class_names == ("voc-x", "voc-y")


def test_the_only_table_is_read_where_nothing_else_is(tmp_path):
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "train.csv").write_text("image,label\n1.png,x\n2.png,y\n")
    assert read_any(tmp_path).class_names == ("x", "y")


@pytest.mark.parametrize(
    "name, content, first",
    [
        ("any.json", json.dumps(SPLIT), "zhou-a"),
        ("any.json", json.dumps(BOXES), "box-x"),
        ("any.json", json.dumps([{"image": "a/1.png", "label": "x"}, {"image": "b/2.png", "label": "y"}]), "x"),
        ("any.CSV", "image,label\na/1.png,x\nb/2.png,y\n", "x"),
    ],
)
def test_files_are_judged_by_suffix_and_content(folder, name, content, first):
    (folder / name).write_text(content)
    assert read_any(folder / name).class_names[0] == first


def test_options_reach_the_reader_that_has_them(folder):
    (folder / "labels.csv").write_text("image,label\na/1.png,x\nb/2.png,y\n")
    assert read_any(folder, class_names=["y", "x"], min_side=None).class_names == ("y", "x")
    with pytest.raises(ConfigError, match="'min_side' does not apply to a manifest"):
        read_any(folder, min_side=3)


def test_nothing_readable_is_said_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    put(tmp_path, "one/cat/1.png", "beside/images/1.png", "beside/masks/1.png")
    (tmp_path / "words").mkdir()
    (tmp_path / "words/a.txt").write_text("x")
    for name in ("a.bin", "a.npz"):
        (tmp_path / name).write_bytes(b"x")
    for name, match in [
        ("none", "no such file or folder"),
        ("empty", "empty folder"),
        ("one", "only one class, 'cat'"),
        ("beside", "no class folders"),
        ("words", "no image in it"),
        ("a.bin", "not a known kind of data set"),
        ("a.npz", "give features by --features .*a.npz"),
    ]:
        with pytest.raises(DataError, match=match) as caught:
            read_any(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "name, classes, count",
    [
        ("wbc_classification", ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil"), 212),
        ("pneumoniamnist", ("normal", "pneumonia"), 600),
        ("bccd_detection", ("RBC", "WBC", "Platelets"), 2900),
    ],
)
def test_real_sets(data_dir, tmp_path, name, classes, count):
    data = assign_splits(read_any(data_dir / "medical" / name), seed=1, hashes=FileHashes(tmp_path))
    assert data.class_names == classes and len(data.items) >= count and not data.skipped
    tested = Counter(item.target.index for item in data.split("test"))
    assert set(tested) == set(range(len(classes)))
    sources = {split: {item.source for item in data.split(split)} for split in ("train", "val", "test")}
    assert not sources["train"] & sources["test"] and not sources["val"] & (sources["train"] | sources["test"])
    assert data.load(data.items[-1]).shape[2] == 3
