"""Published selections: the images of a list are met one for one, and what cannot be met is said."""

from __future__ import annotations

import json

import pytest

from vladapt import DataError
from vladapt.domains.natural import Natural


@pytest.fixture
def folder(photo, tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            for number in range(count):
                photo(f"set/{split}/{name}/{number}.jpg")
    return tmp_path / "set"


def listed(tmp_path, rows, name="list.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def ids(data, split):
    return sorted(item.id for item in data.split(split))


@pytest.mark.parametrize(
    "row",
    [
        lambda path: {"impath": f"/home/else/set/{path}", "label": 0, "classname": "cat"},
        lambda path: {"path": path, "label": "cat"},
        lambda path: [path, 0, "cat"],
    ],
)
def test_only_the_listed_images_teach(folder, tmp_path, row):
    paths = ["train/cat/2.jpg", "train/dog/0.jpg"]
    data = Natural().read(folder, train_list=listed(tmp_path, map(row, paths)))
    assert ids(data, "train") == paths
    assert len(ids(data, "val")) == 4 and len(ids(data, "test")) == 2


def test_a_list_for_val_may_take_from_train(folder, tmp_path):
    val = listed(tmp_path, [{"path": "train/cat/1.jpg"}])
    data = Natural().read(folder, val_list=val)
    assert ids(data, "val") == ["train/cat/1.jpg"]
    assert "train/cat/1.jpg" not in ids(data, "train") and len(ids(data, "train")) == 5


def test_a_test_image_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"'test/cat/0.jpg' is a test image"):
        Natural().read(folder, train_list=listed(tmp_path, [{"path": "test/cat/0.jpg"}]))


def test_an_image_in_both_lists_is_refused(folder, tmp_path):
    same = listed(tmp_path, [{"path": "train/cat/0.jpg"}])
    with pytest.raises(DataError, match="is in both lists"):
        Natural().read(folder, train_list=same, val_list=same)


@pytest.mark.parametrize("path", ["train/horse/0.jpg", "0.jpg", "other/9.jpg", "/far/train/horse/2.jpg"])
def test_a_list_of_another_set_is_said(folder, tmp_path, path):
    with pytest.raises(DataError, match=r"1 of its 2 samples are not in the set.*give a list of this set"):
        Natural().read(folder, train_list=listed(tmp_path, [{"path": path}, {"path": "train/cat/0.jpg"}]))


def test_an_empty_list_is_refused(folder, tmp_path):
    with pytest.raises(DataError):
        Natural().read(folder, train_list=listed(tmp_path, []))


def test_of_a_set_without_splits_the_others_are_for_testing(photo, tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            photo(f"set/{name}/{number}.jpg")
    data = Natural().read(tmp_path / "set", train_list=listed(tmp_path, [["cat/0.jpg", 0], ["dog/1.jpg", 1]]))
    assert ids(data, "train") == ["cat/0.jpg", "dog/1.jpg"]
    assert len(ids(data, "test")) == 4
