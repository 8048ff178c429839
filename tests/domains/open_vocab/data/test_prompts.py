"""Files of what is shown on images: read, put on the images, refused in one line."""

import json

import pytest

from vladapt import DataError
from vladapt.core.contracts.items import DomainData, Item
from vladapt.domains.open_vocab.data.prompts import PROMPTS, UNNAMED, read_prompts


@pytest.fixture
def written(tmp_path):
    def write(content, name="prompts.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg", tmp_path / "y.jpg"]
    return DomainData([Item(id=str(path), source=path) for path in paths], (), load=None)


def test_boxes_and_points_lie_on_their_images_in_the_order_of_the_file(written, images):
    objects = [
        {"points": [[5, 6], [9, 2]], "labels": [1, 0], "name": "crack"},
        {"box": [1, 2, 30, 40]},
        {"box": [1, 2, 30, 40], "points": [[3, 4]], "name": "crack", "positive": False},
    ]
    shown = read_prompts(written({"y.jpg": objects, str(images.items[1].source): [{"box": [0, 0, 1, 1]}]})).on(images)
    assert shown.class_names == ("crack", UNNAMED)
    first, second, third = (item.target for item in shown.items)
    assert first.boxes == () and second.boxes == ((0.0, 0.0, 1.0, 1.0),)
    assert third.boxes[0] == (5.0, 2.0, 9.0, 6.0) and third.boxes[1] == (1.0, 2.0, 30.0, 40.0)
    assert third.labels == (0, 1, 0)
    assert third.facts[PROMPTS] == [
        {"box": False, "points": [[5.0, 6.0], [9.0, 2.0]], "positive": [1, 0], "example": True},
        {"box": True, "points": [], "positive": [], "example": True},
        {"box": True, "points": [[3.0, 4.0]], "positive": [1], "example": False},
    ]


def test_boxes_of_coco_are_prompts(written, images):
    content = {
        "images": [{"id": 7, "file_name": "y.jpg"}, {"id": 8, "file_name": str(images.items[0].source)}],
        "categories": [{"id": 3, "name": "rust"}],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 20, 5, 6], "score": 0.4}],
    }
    shown = read_prompts(written(content)).on(images)
    assert shown.class_names == ("rust",) and shown.items[2].target.boxes == ((10.0, 20.0, 15.0, 26.0),)
    assert shown.items[0].target.boxes == ()


@pytest.mark.parametrize(
    "content, told",
    [
        ("[1]", "not a JSON object"),
        ("{", "prompts.json"),
        ({"y.jpg": {"box": [0, 0, 1, 1]}}, "'y.jpg' has no list of objects"),
        ({"y.jpg": []}, "shows nothing on any image"),
        ({"y.jpg": [{"bbox": [0, 0, 1, 1]}]}, "object 1: not an object of box"),
        ({"y.jpg": [{"box": [0, 0, 1]}]}, "its box is not 4 numbers"),
        ({"y.jpg": [{"box": [5, 0, 1, 4]}]}, "has no area"),
        ({"y.jpg": [{"points": [[1, "a"]]}]}, "a point is not 2 numbers"),
        ({"y.jpg": [{"points": [[1, 2]], "labels": [1, 1]}]}, "labels are not one per point"),
        ({"y.jpg": [{"points": 3}]}, "points is no list"),
        ({"y.jpg": [{"name": "crack"}]}, "neither a box nor points"),
        ({"images": 3, "annotations": [{"bbox": [0, 0, 1, 1]}]}, "not boxes as COCO has them"),
        ({"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}]}, r"annotation 0 has no usable box \(no 'image_id'\)"),
        ({"images": [], "annotations": [{"image_id": 7, "bbox": [0, 0, 1, 1]}]}, r"annotation 0 .* \(no image 7\)"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_its_place(written, content, told):
    with pytest.raises(DataError, match=told):
        read_prompts(written(content))


def test_an_image_that_is_none_of_them_or_could_be_several_is_refused(written, images):
    with pytest.raises(DataError, match=r"'z\.jpg' is none of the images"):
        read_prompts(written({"z.jpg": [{"box": [0, 0, 1, 1]}]})).on(images)
    with pytest.raises(DataError, match=r"'x\.jpg' may be 2 of the images; name it by its path"):
        read_prompts(written({"x.jpg": [{"box": [0, 0, 1, 1]}]})).on(images)
    with pytest.raises(DataError, match=r"from a \.json file"):
        read_prompts(written("a", "prompts.txt"))
