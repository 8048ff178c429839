"""Class folders in every layout, and what is left out of them."""

import pytest
from PIL import Image

from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.files import Format
from vladapt.core.data.images import IMAGE
from vladapt.core.data.unlabelled import read_unlabelled
from vladapt.core.errors import DataError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def seen(data):
    return {item.id: (data.class_names[item.target.index], item.split) for item in data.items}


def test_folder_names_are_the_classes_in_sorted_order(tmp_path):
    put(tmp_path, "white_b/1.png", "red/1.JPG", "red/deep/2.png")
    data = read_class_folders(tmp_path)
    assert data.class_names == ("red", "white_b") and data.kind == "labels"
    assert seen(data) == {"red/1.JPG": ("red", ""), "red/deep/2.png": ("red", ""), "white_b/1.png": ("white_b", "")}
    assert data.load(data.items[0]).shape == (4, 4, 3)


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
@pytest.mark.parametrize("above", ["", "images/"])
def test_splits_are_read_from_the_folders_above(tmp_path, validation, above):
    put(tmp_path, f"{above}train/a/1.png", f"{above}train/b/2.png")
    put(tmp_path, f"{above}{validation}/a/3.png", f"{above}test/b/4.png")
    data = read_class_folders(tmp_path)
    assert data.class_names == ("a", "b")
    assert {i.source.name: i.split for i in data.items} == {
        "1.png": "train",
        "2.png": "train",
        "3.png": "val",
        "4.png": "test",
    }


@pytest.mark.parametrize("above", ["images", "wbc-main"])
def test_one_folder_between_root_and_classes(tmp_path, above):
    put(tmp_path, f"{above}/a/1.png", f"{above}/b/2.png")
    (tmp_path / "labels_source.csv").write_text("x,y\n")
    assert read_class_folders(tmp_path).class_names == ("a", "b")


def test_patients_below_classes_are_no_classes(tmp_path):
    put(tmp_path, "sick/p1/1.png", "sick/p2/1.png", "well/p3/1.png")
    assert read_class_folders(tmp_path).class_names == ("sick", "well")


def test_a_flat_test_folder_is_left_out_and_said(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/2.png", "test/3.png")
    data = read_class_folders(tmp_path)
    assert len(data.items) == 2 and any("'test'" in note for note in data.notes)


def test_other_files_are_ignored_empty_images_listed(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png", "loose.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".hidden.png").write_text("x")
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    (tmp_path / "c").mkdir()
    data = read_class_folders(tmp_path)
    assert len(data.items) == 2 and data.class_names == ("a", "b")
    assert data.skipped == [("b/empty.png", "empty file (0 bytes)")] and data.total == 3
    assert data.notes == [
        "Folders without images left out: c.",
        "Images next to the class folders, left out because they have no class: 1.",
    ]


def test_links_that_leave_the_folder_are_refused(tmp_path):
    put(tmp_path, "out/1.png", "set/a/1.png", "set/b/2.png", "set/b/3.png")
    (tmp_path / "set/a/link.png").symlink_to(tmp_path / "out/1.png")
    (tmp_path / "set/a/own.png").symlink_to(tmp_path / "set/a/1.png")
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/c").symlink_to(tmp_path / "out")
    data = read_class_folders(tmp_path / "set")
    assert {i.id for i in data.items} == {"a/1.png", "a/own.png", "b/2.png", "b/3.png"}
    assert {name for name, _ in data.skipped} == {"a/link.png", "a/loop", "c"}


def test_images_beside_masks_are_no_classes(tmp_path):
    put(tmp_path, "images/1.png", "masks/1.png")
    with pytest.raises(DataError, match="no class folders"):
        read_class_folders(tmp_path)


def test_one_class_only(tmp_path):
    put(tmp_path, "train/a/1.png", "test/a/2.png")
    with pytest.raises(DataError, match="two classes"):
        read_class_folders(tmp_path)


def test_a_format_expands_its_files_and_gives_their_group(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    for name in ("a/x.stack", "b/broken.stack"):
        (tmp_path / name).write_text(name)

    def expand(path):
        if "broken" in path.name:
            raise DataError("holds NaN")
        return [{"frame": 0}, {"frame": 1}]

    stack = Format("stack", (".stack",), load=IMAGE.load, expand=expand, group=lambda path, name: "patient-7")
    data = read_class_folders(tmp_path, (IMAGE, stack))
    frames = [item for item in data.items if item.group]
    assert [(i.id, i.decode, i.group) for i in frames] == [
        ("a/x.stack#1", {"frame": 0}, "patient-7"),
        ("a/x.stack#2", {"frame": 1}, "patient-7"),
    ]
    assert data.skipped == [("b/broken.stack", "holds NaN")]


def test_licence_is_taken_from_the_readme(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    assert read_class_folders(tmp_path).licence == "unknown"
    (tmp_path / "LICENSE").write_text("MIT License\n\nmore")
    assert read_class_folders(tmp_path).licence == "MIT License"
    (tmp_path / "README.md").write_text("# set\nLicence: CC BY 4.0\n")
    assert read_class_folders(tmp_path).licence == "CC BY 4.0"


def test_unlabelled_takes_files_and_folders_each_once(tmp_path):
    put(tmp_path, "a/1.png", "a/deep/2.png", "3.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "z.png").write_bytes(b"")
    data = read_unlabelled([tmp_path / "3.png", tmp_path / "a", tmp_path / "a" / "1.png"])
    assert [i.source.name for i in data.items] == ["3.png", "1.png", "2.png"]
    assert all(i.target is None for i in data.items) and data.items[0].id == (tmp_path / "3.png").as_posix()
    assert [reason for _, reason in data.skipped] == ["empty file (0 bytes)"]


def test_unlabelled_says_what_is_wrong(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no such file"):
        read_unlabelled([tmp_path / "none.png"])
    with pytest.raises(DataError, match="no reader for this kind"):
        read_unlabelled([tmp_path / "notes.txt"])
    with pytest.raises(DataError, match="no readable image"):
        read_unlabelled([tmp_path])
