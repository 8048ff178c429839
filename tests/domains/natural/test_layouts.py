"""Each published layout is read: its images, the names and the order of its classes, and its splits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.io import savemat

from vladapt import DataError
from vladapt.domains.natural import Natural
from vladapt.domains.natural.imagenet import IMAGENET_LAYOUTS
from vladapt.domains.natural.layouts import LAYOUTS, set_layout


def read(path):
    """(class names, {id: (class name, split)}) of a folder."""
    data = Natural().read(path)
    return data.class_names, {i.id: (data.class_names[i.class_label()], i.split) for i in data.items}


def lines(file, *texts):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{text}\n" for text in texts))


def test_aircraft_has_three_lists_and_names_with_blanks(tmp_path, photo):
    for number in range(3):
        photo(f"data/images/000{number}.jpg")
    lines(tmp_path / "data/images_variant_train.txt", "0000 Boeing 707-320")
    lines(tmp_path / "data/images_variant_val.txt", "0001 A300B4")
    lines(tmp_path / "data/images_variant_test.txt", "0002 A300B4")
    names, items = read(tmp_path)
    assert names == ("A300B4", "Boeing 707-320")
    assert items == {
        "images/0000.jpg": ("Boeing 707-320", "train"),
        "images/0001.jpg": ("A300B4", "val"),
        "images/0002.jpg": ("A300B4", "test"),
    }


def test_pets_are_named_by_their_files(tmp_path, photo):
    for name in ("great_pyrenees_1", "Abyssinian_2", "Abyssinian_3"):
        photo(f"images/{name}.jpg")
    lines(tmp_path / "annotations/trainval.txt", "# comment", "Abyssinian_2 1 1 1", "great_pyrenees_1 2 2 1")
    lines(tmp_path / "annotations/test.txt", "Abyssinian_3 1 1 1")
    names, items = read(tmp_path)
    assert names == ("abyssinian", "great pyrenees")
    assert items["images/Abyssinian_3.jpg"] == ("abyssinian", "test")
    assert items["images/great_pyrenees_1.jpg"] == ("great pyrenees", "train")


@pytest.mark.parametrize("inner", ["", "food-101"])
def test_food(tmp_path, photo, inner):
    for name in ("apple_pie/1", "waffles/2"):
        photo(f"{inner or '.'}/images/{name}.jpg")
    lines(tmp_path / inner / "meta/train.txt", "apple_pie/1")
    lines(tmp_path / inner / "meta/test.txt", "waffles/2")
    assert read(tmp_path)[1] == {
        "images/apple_pie/1.jpg": ("apple pie", "train"),
        "images/waffles/2.jpg": ("waffles", "test"),
    }


def test_textures_take_their_first_partition(tmp_path, photo):
    for name in ("banded/a", "dotted/b", "dotted/c"):
        photo(f"dtd/images/{name}.jpg")
    for split, name in (("train", "banded/a"), ("val", "dotted/b"), ("test", "dotted/c")):
        lines(tmp_path / f"dtd/labels/{split}1.txt", f"{name}.jpg")
    assert {split for _, split in read(tmp_path)[1].values()} == {"train", "val", "test"}


def test_sun_says_indoor_first_and_sorts_by_folder(tmp_path, photo):
    photo("SUN397/a/apse/indoor/1.jpg")
    photo("SUN397/a/abbey/2.jpg")
    lines(tmp_path / "Training_01.txt", "/a/apse/indoor/1.jpg")
    lines(tmp_path / "Testing_01.txt", "/a/abbey/2.jpg")
    names, items = read(tmp_path)
    assert names == ("abbey", "indoor apse")
    assert items["SUN397/a/apse/indoor/1.jpg"] == ("indoor apse", "train")


def test_actions_of_one_film_stay_together(tmp_path, photo):
    photo("UCF-101-midframes/Apply_Eye_Makeup/v_ApplyEyeMakeup_g08_c01.jpg")
    photo("UCF-101-midframes/Yo_Yo/v_YoYo_g01_c02.jpg")
    lines(tmp_path / "ucfTrainTestlist/trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1")
    lines(tmp_path / "ucfTrainTestlist/testlist01.txt", "YoYo/v_YoYo_g01_c02.avi")
    data = Natural().read(tmp_path)
    assert data.class_names == ("Apply Eye Makeup", "Yo Yo")
    assert [item.group for item in data.items] == ["ApplyEyeMakeup g08", "YoYo g01"]


@pytest.mark.parametrize("named", [True, False])
def test_flowers_are_named_by_coop_or_torchvision_in_the_order_of_their_numbers(tmp_path, photo, named):
    for number in (1, 2, 3):
        photo(f"jpg/image_{number:05d}.jpg")
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[2, 1, 1]])})
    savemat(tmp_path / "setid.mat", {"trnid": np.array([[1]]), "valid": np.array([[2]]), "tstid": np.array([[3]])})
    if named:
        (tmp_path / "cat_to_name.json").write_text(json.dumps({"1": "zinnia", "2": "aster"}))
    names, items = read(tmp_path)
    assert names == (("zinnia", "aster") if named else ("pink primrose", "hard-leaved pocket orchid"))
    assert [items[f"jpg/image_0000{n}.jpg"][1] for n in (1, 2, 3)] == ["train", "val", "test"]


def test_cars_have_their_year_first(tmp_path, photo):
    photo("cars_train/00001.jpg")
    photo("cars_test/00001.jpg")
    (tmp_path / "devkit").mkdir()
    names = np.array(["Zonda R 2012", "Acura TL 2008"], dtype=object)
    rows = np.dtype([("fname", object), ("class", object)])
    savemat(tmp_path / "devkit/cars_meta.mat", {"class_names": names})
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": np.array([("00001.jpg", 1)], dtype=rows)})
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": np.array([("00001.jpg", 2)], dtype=rows)})
    assert read(tmp_path) == (
        ("2012 Zonda R", "2008 Acura TL"),
        {"cars_train/00001.jpg": ("2012 Zonda R", "train"), "cars_test/00001.jpg": ("2008 Acura TL", "test")},
    )


def test_caltech_leaves_two_folders_out(tmp_path, photo):
    for name in ("BACKGROUND_Google", "Faces", "Faces_easy", "ant"):
        photo(f"101_ObjectCategories/{name}/1.jpg")
    assert read(tmp_path)[0] == ("face", "ant")


def test_eurosat_is_spoken(tmp_path, photo):
    photo("2750/AnnualCrop/1.jpg")
    photo("2750/SeaLake/1.jpg")
    assert read(tmp_path)[0] == ("Annual Crop Land", "Sea or Lake")


def test_imagenet_tests_on_its_val_images(tmp_path, photo):
    lines(tmp_path / "classnames.txt", "n01440764 tench", "n01443537 goldfish")
    for split in ("train", "val"):
        for id_ in ("n01440764", "n01443537"):
            photo(f"images/{split}/{id_}/1.JPEG")
    names, items = read(tmp_path)
    assert names == ("tench", "goldfish")
    assert items["images/val/n01440764/1.JPEG"] == ("tench", "test")
    assert items["images/train/n01443537/1.JPEG"] == ("goldfish", "train")


def test_folders_of_imagenet_v2_are_places_in_the_list_of_names(tmp_path, photo):
    lines(tmp_path / "classnames.txt", *(f"n{number:08d} thing {number}" for number in range(12)))
    for number in (2, 10):
        photo(f"imagenetv2-matched-frequency-format-val/{number}/1.jpeg")
    names, items = read(tmp_path)
    assert names == ("thing 2", "thing 10")
    assert {split for _, split in items.values()} == {"test"}


def test_a_folder_without_a_name_is_refused(tmp_path, photo):
    lines(tmp_path / "classnames.txt", "n01440764 tench")
    photo("imagenet-a/n01440764/1.jpg")
    photo("imagenet-a/n99999999/1.jpg")
    with pytest.raises(DataError, match=r"classnames\.txt: has no name for folder 'n99999999'"):
        read(tmp_path)


def test_an_image_that_is_not_there_is_listed(tmp_path, photo):
    for name in ("apple_pie/1", "waffles/2"):
        photo(f"images/{name}.jpg")
    lines(tmp_path / "meta/train.txt", "apple_pie/1", "apple_pie/9")
    lines(tmp_path / "meta/test.txt", "waffles/2")
    assert Natural().read(tmp_path).skipped == [("images/apple_pie/9.jpg", f"no such file below {tmp_path}")]


def test_a_list_does_not_leave_the_folder(tmp_path, photo):
    photo("set/images/a/1.jpg")
    photo("outside/1.jpg")
    lines(tmp_path / "set/meta/train.txt", "a/1", "../../outside/1")
    lines(tmp_path / "set/meta/test.txt", "a/1")
    with pytest.raises(DataError, match="leaves the folder"):
        read(tmp_path / "set")


def test_a_damaged_matlab_file_is_one_line(tmp_path, photo):
    photo("jpg/image_00001.jpg")
    (tmp_path / "imagelabels.mat").write_bytes(b"MATLAB 5.0 no")
    (tmp_path / "setid.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"imagelabels\.mat: not a readable MATLAB file"):
        read(tmp_path)


def test_plain_folders_have_no_published_layout(tmp_path, photo):
    photo("cat/1.jpg")
    photo("dog/1.jpg")
    assert set_layout(tmp_path, (*LAYOUTS, *IMAGENET_LAYOUTS)) is None
    assert read(tmp_path)[0] == ("cat", "dog")


def test_two_classes_of_one_name_stay_two(tmp_path, photo):
    """ImageNet has two missiles and two pairs of sunglasses."""
    ids = ("n03773504", "n04008634", "n04355933")
    lines(tmp_path / "classnames.txt", f"{ids[0]} missile", f"{ids[1]} missile", f"{ids[2]} sunglasses")
    for id_ in ids:
        for split in ("train", "val"):
            photo(f"images/{split}/{id_}/1.JPEG")
    data = Natural().read(tmp_path)
    assert data.class_names == ("missile", "missile", "sunglasses")
    assert {item.class_label() for item in data.items if ids[1] in item.id} == {1}


def test_a_list_of_names_beside_folders_of_images_is_no_imagenet(tmp_path, photo):
    lines(tmp_path / "classnames.txt", "cat", "dog")
    photo("images/cat/1.jpg")
    photo("images/dog/1.jpg")
    photo("images/2750/1.jpg")
    assert set(read(tmp_path)[0]) == {"2750", "cat", "dog"}
