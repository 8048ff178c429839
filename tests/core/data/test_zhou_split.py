"""CoOp's split files."""

import json

import pytest
from PIL import Image

from vladapt.core.data.zhou_split import read_zhou_split
from vladapt.core.errors import DataError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def write(folder, **splits):
    path = folder / "split_zhou_EuroSAT.json"
    path.write_text(json.dumps(splits))
    return path


@pytest.mark.parametrize("inside", ["", "images/", "2750/"])
def test_splits_labels_and_names_are_those_of_the_file(tmp_path, inside):
    put(tmp_path, *(f"{inside}{n}" for n in ("River/1.jpg", "Forest/2.jpg", "Forest/3.jpg")))
    (tmp_path / "another").mkdir()
    path = write(
        tmp_path,
        train=[["River/1.jpg", 1, "River"]],
        val=[["Forest/2.jpg", 0, "Annual Forest"]],
        test=[["Forest/3.jpg", 0, "Annual Forest"], ["Forest/gone.jpg", 0, "Annual Forest"]],
    )
    data = read_zhou_split(path)
    assert data.class_names == ("Annual Forest", "River") and data.name == "EuroSAT"
    assert {i.id: (i.target.index, i.split) for i in data.items} == {
        "River/1.jpg": (1, "train"),
        "Forest/2.jpg": (0, "val"),
        "Forest/3.jpg": (0, "test"),
    }
    assert [name for name, _ in data.skipped] == ["Forest/gone.jpg"]


def test_val_that_repeats_test_stays_in_test(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    data = read_zhou_split(
        write(tmp_path, train=[["1.jpg", 0, "a"]], val=[["2.jpg", 1, "b"]], test=[["2.jpg", 1, "b"]])
    )
    assert [(i.id, i.split) for i in data.items] == [("2.jpg", "test"), ("1.jpg", "train")]


def test_root_is_where_the_images_are(tmp_path):
    put(tmp_path, "far/1.jpg", "far/2.jpg")
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / "lists", train=[["1.jpg", 0, "a"]], test=[["2.jpg", 1, "b"]])
    assert len(read_zhou_split(path, root=tmp_path / "far").items) == 2
    with pytest.raises(DataError, match="none of its 2 images"):
        read_zhou_split(path)


@pytest.mark.parametrize(
    "splits, match",
    [
        ({"train": [["1.jpg", 0, "a"]]}, "no 'train' and 'test'"),
        ({"train": [["1.jpg", "0", "a"]], "test": []}, "train entry 1"),
        ({"train": [["1.jpg", 0, "a"], ["2.jpg", 0, "b"]], "test": []}, "label 0 is called"),
        ({"train": [["../out.jpg", 0, "a"]], "test": []}, "leaves the folder"),
    ],
)
def test_malformed_files(tmp_path, splits, match):
    put(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(DataError, match=match):
        read_zhou_split(write(tmp_path, **splits))
