"""Boxes of a detector, read from COCO JSON and matched to the images of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.contracts.features import Detection
from vladapt.core.data.detections import match_images, read_detections
from vladapt.core.errors import DataError

IDS = ("cats/1.jpg", "cats/2.jpg", "dogs/3.jpg")


def result(image, box=(10, 20, 30, 40), score: float | None = 0.5, **more):
    return {"image_id": image, "bbox": list(box)} | ({} if score is None else {"score": score}) | more


def whole(annotations, files=("cats/1.jpg", "cats/2.jpg"), categories=("cat", "dog")):
    return {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(files)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories)],
        "annotations": annotations,
    }


@pytest.fixture
def read(tmp_path):
    def read(content, ids=IDS):
        (tmp_path / "found.json").write_text(json.dumps(content))
        return read_detections(tmp_path / "found.json", ids)

    return read


def test_a_list_of_results_by_file_name(read):
    found = read([result("cats/1.jpg", score=0.2), result("3.jpg"), result("cats/1.jpg", (0, 0, 5, 5.5), 0.7)])
    assert found == {
        "cats/1.jpg": (Detection((0, 0, 5, 5.5), 0.7, ""), Detection((10, 20, 40, 60), 0.2, "")),
        "dogs/3.jpg": (Detection((10, 20, 40, 60), 0.5, ""),),
    }


def test_a_whole_coco_file_names_images_and_categories(read):
    found = read(whole([result(1, category_id=1, score=None), result(0, category_id=0, iscrowd=0)]))
    assert found == {
        "cats/2.jpg": (Detection((10, 20, 40, 60), 1.0, "dog"),),
        "cats/1.jpg": (Detection((10, 20, 40, 60), 0.5, "cat"),),
    }


def test_in_a_bare_list_numbers_are_those_of_images_and_name_no_category(read):
    assert read([result(1, category_id=1)])["cats/1.jpg"][0].label == ""


def test_parts_of_a_coco_file_may_be_missing(read):
    bare = {"annotations": [result("cats/2.jpg", category_id=7)]}
    assert read(bare) == {"cats/2.jpg": (Detection((10, 20, 40, 60), 0.5, ""),)}
    assert read(whole([result(0)]))["cats/1.jpg"][0].label == ""


def test_numbers_are_sought_as_file_names_written_in_digits(read):
    ids = ("images/000000000139.jpg", "images/000000397133.jpg", "images/x12.jpg")
    found = read([result(139), result(397133), result(12)], ids)
    assert set(found) == set(ids[:2])


def test_crowds_and_boxes_without_area_are_left_out(read):
    kept = result("cats/1.jpg")
    flat = [result("cats/1.jpg", (1, 1, 0, 5)), result("cats/2.jpg", (1, 1, 5, 0))]
    assert read([kept, *flat, result("cats/1.jpg", iscrowd=1)]) == read([kept])


def test_images_that_are_not_in_the_data_are_left_out(read):
    assert set(read([result("cats/1.jpg"), result("birds/9.jpg")])) == {"cats/1.jpg"}
    assert set(read(whole([result(0)], files=("birds/9.jpg", "cats/1.jpg")))) == set()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (result("cats/1.jpg", (1, 2, float("nan"), 4)), "entry 1 has bbox"),
        (result("cats/1.jpg", (1, float("inf"), 3, 4)), "entry 1 has bbox"),
        (result("cats/1.jpg", (1, 2, -3, 4)), "width and height of 0 or more"),
        (result("cats/1.jpg", (1, 2, 3)), r"give \[x, y, width, height\]"),
        ({"image_id": "cats/1.jpg"}, r"entry 1 has bbox None"),
        (result("cats/1.jpg", ("a", 2, 3, 4)), "entry 1 has bbox"),
        (result("cats/1.jpg", score=87), "entry 1 has score 87"),
        (result("cats/1.jpg", score=float("nan")), "entry 1 has score nan"),
        (result("cats/1.jpg", score=-0.1), "entry 1 has score -0.1"),
        (result("cats/1.jpg", score="high"), "entry 1 has score 'high'"),
        ({"bbox": [1, 2, 3, 4]}, "entry 1 has no image_id"),
        ("box", "entry 1 has no image_id"),
    ],
)
def test_a_bad_entry_is_named(read, entry, said):
    with pytest.raises(DataError, match=said) as caught:
        read([result("cats/1.jpg"), entry])
    assert "found.json: entry 1" in str(caught.value)


def test_numbers_that_the_file_does_not_explain_are_named(read):
    with pytest.raises(DataError, match=r"entry 0 has image_id 9, which"):
        read(whole([result(9)]))
    with pytest.raises(DataError, match=r"entry 0 has category_id 9, which"):
        read(whole([result(0, category_id=9)]))
    with pytest.raises(DataError, match=r"entry 0 has category_id \[1\], which"):
        read(whole([result(0, category_id=[1])]))
    with pytest.raises(DataError, match="an image lacks its id or file_name"):
        read({"images": [{"id": 1}], "annotations": []})
    with pytest.raises(DataError, match="a category lacks its id or name"):
        read({"categories": [3], "annotations": []})


@pytest.mark.parametrize("content", [{"boxes": []}, 3, None, {"annotations": 3}])
def test_another_shape_is_refused(read, content):
    with pytest.raises(DataError, match="neither a list of results"):
        read(content)


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(DataError, match=r"none.json: cannot be read"):
        read_detections(tmp_path / "none.json", IDS)
    (tmp_path / "bad.json").write_text("[{")
    with pytest.raises(DataError, match=r"bad.json: not valid JSON"):
        read_detections(tmp_path / "bad.json", IDS)
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(DataError, match=r"latin.json: cannot be read"):
        read_detections(tmp_path / "latin.json", IDS)


def test_no_box_and_no_known_image_are_errors(read):
    with pytest.raises(DataError, match="holds no box"):
        read([])
    with pytest.raises(DataError, match="holds no box"):
        read(whole([]))
    with pytest.raises(DataError, match=r"none of its 1 images is in the data \('z.jpg', 'cats/1.jpg'\)"):
        read([result("z.jpg")])
    with pytest.raises(DataError, match="none of its 1 images"):
        read([result("z.jpg")], ids=())


# which image is meant ------------------------------------------------------------------------------------------------


def match(listed, ids):
    return match_images(Path("found.json"), listed, ids)


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("cats/1.jpg", "cats/1.jpg"),
        ("./cats/1.jpg", "cats/1.jpg"),
        ("cats\\1.jpg", "cats/1.jpg"),
        ("1.jpg", "cats/1.jpg"),
        ("/data/cats/1.jpg", "cats/1.jpg"),
        ("train2017/1.jpg", "cats/1.jpg"),
        ("cats/1", "cats/1.jpg"),
        ("cats/1.png", "cats/1.jpg"),
        ("1", "cats/1.jpg"),
        ("0001", "cats/1.jpg"),
    ],
)
def test_an_image_is_found_by_name_file_name_stem_and_number(name, id_):
    assert match([name], IDS) == {name: id_}


def test_a_better_match_takes_the_item():
    assert match(["1.png", "1.jpg"], ["1.jpg"]) == {"1.jpg": "1.jpg"}
    assert match(["1.jpg", "cats/1.jpg"], ["cats/1.jpg"]) == {"cats/1.jpg": "cats/1.jpg"}
    assert match(["1.jpg", "1.png"], ["1.png", "1.jpg"]) == {"1.jpg": "1.jpg", "1.png": "1.png"}


def test_folders_tell_images_of_one_name_apart():
    ids = ["cats/1.jpg", "dogs/1.jpg"]
    assert match(["/data/dogs/1.jpg", "/data/cats/1.jpg"], ids) == {
        "/data/dogs/1.jpg": "dogs/1.jpg", "/data/cats/1.jpg": "cats/1.jpg"
    }  # fmt: skip
    # the list has a 1.jpg of dogs too, which are not in this data: its boxes go to no cat
    assert match(["x/cats/1.jpg", "x/dogs/1.jpg"], ["cats/1.jpg"]) == {"x/cats/1.jpg": "cats/1.jpg"}
    assert match(["cats/1.jpg", "dogs/1.jpg"], ["cats/1.jpg", "birds/1.jpg"]) == {"cats/1.jpg": "cats/1.jpg"}
    assert match(["/data/a/1.jpg"], ["1.jpg", "a/1.jpg", "b/a/1.jpg"]) == {"/data/a/1.jpg": "a/1.jpg"}


def test_doubt_is_an_error():
    with pytest.raises(DataError, match=r"'1.jpg' may be 'cats/1.jpg' or 'dogs/1.jpg'; add its folder"):
        match(["1.jpg"], ["cats/1.jpg", "dogs/1.jpg"])
    with pytest.raises(DataError, match=r"'1' may be 'a/1.jpg' or 'b/1.png'"):
        match(["1"], ["a/1.jpg", "b/1.png"])
    with pytest.raises(DataError, match=r"'7' may be '007.jpg' or '07.jpg'"):
        match(["7"], ["007.jpg", "07.jpg"])
    with pytest.raises(DataError, match=r"'a/cats/1.jpg' and 'b/cats/1.jpg' may both be 'cats/1.jpg'"):
        match(["a/cats/1.jpg", "b/cats/1.jpg"], ["cats/1.jpg"])


def test_parts_of_a_file_are_found_by_their_whole_name_only():
    """Boxes of an image say nothing of a crop of it, nor of one frame of a file."""
    ids = ["a.png#box1", "s.dcm#2", "b.png"]
    assert match(["a.png", "a", "s", "b", "s.dcm#2"], ids) == {"b": "b.png", "s.dcm#2": "s.dcm#2"}


NAMES = st.lists(st.text("ab12", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)


@given(st.lists(NAMES.map(lambda name: name + ".jpg"), min_size=1, max_size=8, unique=True), st.randoms())
def test_names_as_in_the_data_are_matched_to_themselves(ids, random):
    listed = list(ids)
    random.shuffle(listed)
    assert match(listed, ids) == {name: name for name in ids}
    moved = {f"/some/where/{name}": name for name in listed}
    assert match(list(moved), ids) == moved


@given(st.lists(NAMES, min_size=1, max_size=6), st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_no_image_and_no_item_is_matched_twice(listed, ids):
    try:
        matched = match(listed, ids)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert set(matched) <= set(listed) and set(matched.values()) <= set(ids)
    assert len(set(matched.values())) == len(matched) > 0
    assert match(listed[::-1], ids[::-1]) == matched


BOXES = st.tuples(*[st.floats(-50, 500)] * 2, *[st.floats(0, 500)] * 2)


@given(st.lists(st.tuples(st.sampled_from(IDS), BOXES, st.floats(0, 1)), min_size=1, max_size=12))
def test_every_box_with_an_area_is_there_once_the_best_first(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("found") / "found.json"
    path.write_text(json.dumps([result(image, box, score) for image, box, score in entries]))
    solid = [(image, (x, y, x + w, y + h), score) for image, (x, y, w, h), score in entries if x + w > x and y + h > y]
    if not solid:
        with pytest.raises(DataError, match="holds no box"):
            read_detections(path, IDS)
        return
    found = read_detections(path, IDS)
    flat = [(image, box.box, box.score) for image, boxes in found.items() for box in boxes]
    assert sorted(flat) == sorted(solid)
    for boxes in found.values():
        assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)


def test_real_files(data_dir):
    folder = data_dir / "detection_seg" / "coco_val128"
    ids = sorted(f"images/{path.name}" for path in (folder / "images").iterdir())
    found = read_detections(folder / "instances_boxes.json", ids)
    assert set(found) <= set(ids) and len(found) > 70
    bare = [name.removeprefix("images/") for name in ids]
    assert {
        f"images/{name}": boxes for name, boxes in read_detections(folder / "instances_boxes.json", bare).items()
    } == found
    assert found["images/000000000139.jpg"][0].label == "potted plant"
