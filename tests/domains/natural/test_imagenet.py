"""ImageNet and its variants, as torchvision and their archives lay them out, without CoOp's list of names."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.io import savemat

from vladapt import CapabilityError, DataError, DomainData
from vladapt.domains.natural import Natural, imagenet
from vladapt.domains.natural.imagenet import library_names

TENCH, GOLDFISH, CRANE = "n01440764", "n01443537", "n03126707"


@pytest.fixture(autouse=True)
def names_are_looked_up_anew():
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    library_names.cache_clear()
    yield
    library_names.cache_clear()


def read(path):
    """(class names, {id: (class name, split)}, notes) of a folder."""
    data = Natural().read(path)
    placed = {item.id: (data.class_names[item.class_label()], item.split) for item in data.items}
    return data.class_names, placed, data.notes


def test_names_are_clips_in_the_order_of_the_ids():
    names = library_names()
    assert len(names) == 1000 and list(names) == sorted(names)
    assert (names[TENCH], names[GOLDFISH], names[CRANE]) == ("tench", "goldfish", "construction crane")
    assert names["n15075141"] == "toilet paper"  # the last


@pytest.mark.parametrize("above", ["", "images/"])
def test_torchvisions_folders_test_on_val(tmp_path, photo, above):
    for split in ("train", "val"):
        for id_ in (GOLDFISH, TENCH):
            photo(f"{above}{split}/{id_}/1.JPEG")
    (tmp_path / "meta.bin").write_bytes(b"a pickle, never read")
    names, placed, notes = read(tmp_path)
    assert names == ("tench", "goldfish")
    assert placed[f"{above}val/{TENCH}/1.JPEG"] == ("tench", "test")
    assert placed[f"{above}train/{GOLDFISH}/1.JPEG"] == ("goldfish", "train")
    assert notes == [imagenet.NAMED]


def test_numbered_folders_are_places_among_the_sorted_ids(tmp_path, photo):
    """Of ImageNetV2, in whatever order a list names the classes."""
    (tmp_path / "classnames.txt").write_text(f"{GOLDFISH} goldfish\n{TENCH} tench\n")
    for number in ("0", "1"):
        photo(f"imagenetv2-matched-frequency-format-val/{number}/1.jpg")
    _, placed, _ = read(tmp_path)
    assert {id_.split("/")[-2]: name for id_, (name, _) in placed.items()} == {"0": "tench", "1": "goldfish"}


def test_coops_list_goes_before_the_library(tmp_path, photo):
    (tmp_path / "classnames.txt").write_text(f"{TENCH} a fish\n{GOLDFISH} another\n")
    for split in ("train", "val"):
        for id_ in (GOLDFISH, TENCH):
            photo(f"images/{split}/{id_}/1.JPEG")
    assert read(tmp_path)[0] == ("a fish", "another") and read(tmp_path)[2] == []


def development_kit(folder, *truth):
    """Numbers of classes are not in the order of their ids, and inner nodes of the tree have numbers too."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)])
    rows = [(1, CRANE, "crane", 0), (2, TENCH, "tench, Tinca tinca", 0), (1001, "n00001740", "entity", 9)]
    savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kind)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))


@pytest.mark.parametrize("kit", ["ILSVRC2012_devkit_t12/data", "."])
def test_a_flat_folder_of_val_is_labelled_by_the_development_kit(tmp_path, photo, kit):
    for id_ in (TENCH, CRANE):
        photo(f"train/{id_}/{id_}_1.JPEG")
    for number in (1, 2, 3):
        photo(f"val/ILSVRC2012_val_{number:08d}.JPEG")
    development_kit(tmp_path / kit, 2, 1, 2)
    names, placed, _ = read(tmp_path)
    assert names == ("tench", "construction crane")
    assert {id_: one for id_, one in placed.items() if id_.startswith("val")} == {
        "val/ILSVRC2012_val_00000001.JPEG": ("tench", "test"),
        "val/ILSVRC2012_val_00000002.JPEG": ("construction crane", "test"),
        "val/ILSVRC2012_val_00000003.JPEG": ("tench", "test"),
    }


def test_a_flat_folder_without_the_kit_and_a_kit_of_other_classes_are_one_line(tmp_path, photo):
    for id_ in (TENCH, CRANE):
        photo(f"train/{id_}/1.JPEG")
    photo("val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="unpack ILSVRC2012_devkit_t12 beside it"):
        read(tmp_path)
    development_kit(tmp_path / "ILSVRC2012_devkit_t12/data", 77)
    with pytest.raises(DataError, match=r"ground_truth\.txt: '77' in line 1 is not a class"):
        read(tmp_path)
    savemat(tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat", {"synsets": np.array([1, 2])})
    with pytest.raises(DataError, match=r"meta\.mat: has no synsets with a WNID"):
        read(tmp_path)


def test_another_set_whose_val_has_no_classes_leaves_it_out(tmp_path, photo):
    """As Tiny ImageNet's."""
    for id_ in (TENCH, CRANE):
        photo(f"train/{id_}/images/1.JPEG")
    photo("val/images/val_0.JPEG")
    names, placed, notes = read(tmp_path)
    assert names == ("tench", "construction crane") and len(placed) == 2
    assert notes == [imagenet.NAMED, "Folder 'val' holds no class folders: left out."]


@pytest.mark.parametrize(
    ("given", "images"),
    [
        ("data", "data/imagenetv2-matched-frequency-format-val/{}"),
        ("imagenetv2-threshold0.7-format-val", "imagenetv2-threshold0.7-format-val/{}"),
    ],
)
def test_folders_of_v2_are_places_in_the_order_of_the_ids(tmp_path, photo, given, images):
    for number in (1, 517):
        photo(f"{images.format(number)}/1.jpeg")
    names, placed, notes = read(tmp_path / given)
    assert names == ("goldfish", "construction crane") and notes == [imagenet.NAMED]
    assert {split for _, split in placed.values()} == {"test"}


@pytest.mark.parametrize(
    ("given", "images"),
    [
        ("data", "data/imagenet-a/{}"),
        ("imagenet-r", "imagenet-r/{}"),
        ("ImageNet_A", "ImageNet_A/{}"),
        ("data", "data/sketch/{}"),
        ("imagenet-sketch", "imagenet-sketch/images/{}"),
    ],
)
def test_variants_are_for_testing_alone(tmp_path, photo, given, images):
    for id_ in (GOLDFISH, TENCH):
        photo(f"{images.format(id_)}/1.jpg")
    names, placed, notes = read(tmp_path / given)
    assert names == ("tench", "goldfish") and notes == [imagenet.NAMED]
    assert {split for _, split in placed.values()} == {"test"}


def test_any_folders_called_by_these_ids_have_names(tmp_path, photo):
    for id_ in (GOLDFISH, TENCH):
        photo(f"mine/{id_}/1.jpg")
    names, placed, notes = read(tmp_path / "mine")
    assert names == ("tench", "goldfish") and notes == [imagenet.NAMED]
    assert {split for _, split in placed.values()} == {""}


def test_an_id_that_is_none_of_the_thousand_stays(tmp_path, photo):
    for id_ in ("n00001740", TENCH):
        photo(f"mine/{id_}/1.jpg")
    assert read(tmp_path / "mine")[::2] == (("n00001740", TENCH), [])


def test_folders_of_other_ids_to_train_on_and_to_test_on_need_a_list(tmp_path, photo):
    for split in ("train", "val"):
        for id_ in ("n00001740", TENCH):
            photo(f"{split}/{id_}/1.jpg")
    with pytest.raises(DataError, match=r"'n00001740'; it is not one of ImageNet's 1,000 classes, so write a list"):
        read(tmp_path)
    (tmp_path / "classnames.txt").write_text(f"n00001740 entity\n{TENCH} tench\n")
    assert read(tmp_path)[0] == ("entity", "tench")


def test_data_without_classes_have_no_names():
    data = imagenet.with_spoken_names(DomainData([], (), lambda item: None))
    assert data.class_names == () and data.notes == []


def test_without_open_clip_the_cure_is_one_line(tmp_path, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for id_ in (GOLDFISH, TENCH):
        photo(f"imagenet-a/{id_}/1.jpg")
        photo(f"mine/{id_}/1.jpg")
    with pytest.raises(CapabilityError, match=r"pip install 'vladapt\[open-clip\]', or put CoOp's classnames\.txt"):
        read(tmp_path / "imagenet-a")
    names, _, notes = read(tmp_path / "mine")  # a method without texts needs no names
    assert names == (TENCH, GOLDFISH) and "pip install" in notes[0]


def test_a_part_of_imagenet_is_not_called_imagenet(tmp_path, photo):
    for split in ("train", "val"):
        for id_ in (GOLDFISH, TENCH):
            photo(f"imagenette/{split}/{id_}/1.JPEG")
    data = Natural().read(tmp_path / "imagenette")
    assert data.name == "imagenette" and data.published is None
