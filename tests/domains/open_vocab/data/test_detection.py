"""Sets of boxes of every layout, read by their path alone."""

import json

import pytest

from vladapt import DataError
from vladapt.domains.open_vocab.data import read_detection
from vladapt.domains.open_vocab.data.outlines import outline_mask
from vladapt.domains.open_vocab.scores import truth_of

SQUARE = [4.0, 5.0, 14.0, 5.0, 14.0, 15.0, 4.0, 15.0]


def test_coco_gives_boxes_classes_sizes_and_splits_from_file_names(write_coco):
    folder = write_coco([(1, 2, [4, 5, 10, 10]), (2, 1, [0, 0, 40, 30])], name="annotations/instances_train2017.json")
    data = read_detection(folder)
    assert data.kind == "boxes" and data.class_names == ("cat", "dog")
    first = data.items[0]
    assert (first.id, first.target.boxes, first.target.labels) == ("images/a.png", ((4, 5, 14, 15),), (1,))
    assert first.target.size == (40, 30) and first.split == "train" and data.load(first).shape == (30, 40, 3)
    assert read_detection(folder / "annotations" / "instances_train2017.json").items == data.items


def test_polygons_and_both_encodings_draw_the_same_pixels(write_coco):
    from pycocotools import mask as codec

    compressed = codec.merge(codec.frPyObjects([SQUARE], 30, 40))
    pixels = codec.decode(compressed)
    runs, value = [0], 0
    for pixel in pixels.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    shapes = [
        [SQUARE],
        {"size": [30, 40], "counts": compressed["counts"].decode()},
        {"size": [30, 40], "counts": runs},
    ]
    data = read_detection(
        write_coco([{"image_id": 1, "category_id": 1, "segmentation": shape} for shape in shapes], images=("a.png",))
    )
    item = data.items[0]
    assert item.target.boxes == ((4, 5, 14, 15),) * 3
    drawn = [outline_mask(segment, item.target.size) for segment in item.target.segments]
    assert drawn[0].sum() == 100 and all((other == drawn[0]).all() for other in drawn)


def test_lvis_tells_frequencies_what_is_absent_and_what_is_partial(tmp_path, write_image):
    write_image(tmp_path / "val2017" / "a.png")
    names = {1: ("cat", "f"), 2: ("dog", "r"), 3: ("emu", "c")}
    address = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/a.png", "width": 40, "height": 30}
    content = {
        "images": [{**address, "neg_category_ids": [3], "not_exhaustive_category_ids": [1]}],
        "categories": [{"id": n, "name": name, "frequency": often} for n, (name, often) in names.items()],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 5, 10, 10], "segmentation": [SQUARE]}],
    }
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(content))
    data = read_detection(tmp_path)
    assert data.frequency == ("f", "r", "c") and data.items[0].target.facts == {"absent": [2], "partial": [0]}
    assert data.items[0].split == "val" and data.items[0].target.segments == ([SQUARE],)
    assert read_detection(tmp_path, class_names=["emu", "cat"]).items[0].target.facts == {"absent": [0], "partial": [1]}


def test_an_lvis_image_that_was_searched_for_nothing_else_says_so(write_coco):
    folder = write_coco([(1, 1, [4, 5, 10, 10])])
    content = json.loads((folder / "instances.json").read_text())
    content["images"][0]["neg_category_ids"] = []
    (folder / "instances.json").write_text(json.dumps(content))
    items = read_detection(folder).items
    assert items[0].target.facts == {"absent": []} and truth_of(items[0]).absent == []
    assert items[1].target.facts is None and truth_of(items[1]).absent is None


def test_voc_marks_difficult_objects_and_reads_image_sets(tmp_path, write_image):
    write_image(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><filename>a.png</filename><object><name>dog</name><difficult>1</difficult><bndbox><xmin>1</xmin>"
        "<ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox></object><object><name>cat</name><bndbox><xmin>3</xmin>"
        "<ymin>2</ymin><xmax>11</xmax><ymax>12</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    data = read_detection(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.items[0].target.labels == (1, 0) and data.items[0].target.ignored == (True, False)
    assert data.items[0].split == "test" and any("neither trained on nor counted" in note for note in data.notes)


@pytest.mark.parametrize("layout", ["images/train+labels/train", "train/images+train/labels", "beside"])
def test_yolo_layouts_boxes_and_polygons(tmp_path, write_image, layout):
    images, labels = {"beside": ("train", "train")}.get(layout) or layout.split("+")
    write_image(tmp_path / images / "a.png")
    write_image(tmp_path / images / "background.png")
    (tmp_path / labels).mkdir(parents=True, exist_ok=True)
    (tmp_path / labels / "a.txt").write_text("1 0.5 0.5 0.5 0.4\n0 0.1 0.1 0.35 0.1 0.35 0.5\n")
    (tmp_path / "data.yaml").write_text("path: ../elsewhere\nnames: {0: cat, 1: dog}\n")
    data = read_detection(tmp_path)
    assert data.class_names == ("cat", "dog")
    item, empty = data.items
    assert item.split == "train" and item.target.labels == (1, 0) and empty.target.boxes == ()
    assert item.target.boxes[0] == pytest.approx((10, 9, 30, 21))
    assert item.target.boxes[1] == pytest.approx((4, 3, 14, 15))
    assert item.target.segments[0] is None and item.target.segments[1][0] == pytest.approx([4, 3, 14, 3, 14, 15])


def test_yolo_splits_named_by_the_yaml_and_names_from_a_list(tmp_path, write_image):
    for name, split in (("a", "one"), ("b", "two")):
        write_image(tmp_path / "images" / split / f"{name}.png")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "list.txt").write_text("./images/two/b.png\n")
    (tmp_path / "data.yaml").write_text("train: ../images/one\nval: list.txt\nnames: [cat]\n")
    assert [(item.id, item.split) for item in read_detection(tmp_path / "data.yaml").items] == [
        ("images/one/a.png", "train"),
        ("images/two/b.png", "val"),
    ]


def test_yolo_without_names_takes_given_ones_or_says_what_is_missing(tmp_path, write_image):
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5")
    with pytest.raises(DataError, match=r"nothing names its classes; add classes.txt"):
        read_detection(tmp_path)
    assert read_detection(tmp_path, class_names=["cat", "dog"]).items[0].target.labels == (1,)
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert read_detection(tmp_path).class_names == ("cat", "dog")


def test_class_names_choose_and_order(write_coco):
    folder = write_coco([(1, 1, [4, 5, 10, 10]), (1, 2, [0, 0, 9, 9]), (2, 1, [0, 0, 9, 9])])
    data = read_detection(folder, class_names=["dog"])
    assert data.class_names == ("dog",) and [item.target.labels for item in data.items] == [(0,), ()]


def test_a_folder_says_what_would_be_read(tmp_path):
    with pytest.raises(DataError, match=r"empty folder; give COCO or LVIS JSON"):
        read_detection(tmp_path)
    with pytest.raises(DataError, match=r"no such file or folder"):
        read_detection(tmp_path / "nowhere")


def test_files_of_the_same_images_are_told_apart(write_coco):
    folder = write_coco([(1, 1, [4, 5, 10, 10])], name="instances_boxes.json")
    write_coco([(1, 1, [4, 5, 9, 9])], name="instances_polygons.json", images=("a.png",))
    data = read_detection(folder)
    assert len(data.items) == 2 and "not read: instances_polygons.json" in data.notes[0]
    write_coco([(1, 1, [4, 5, 9, 9])], name="instances_more.json", images=("c.png",))
    with pytest.raises(DataError, match=r"are not train, val and test files; give one of them"):
        read_detection(folder)


def test_any_json_of_the_shape_is_found_and_captions_are_not(write_coco):
    folder = write_coco([(1, 1, [4, 5, 10, 10])], name="annotations/everything.json")
    (folder / "captions.json").write_text(json.dumps({"images": [], "annotations": [{"caption": "a cat"}]}))
    assert len(read_detection(folder).items) == 2


@pytest.mark.parametrize(
    ("path", "images", "classes", "boxes"),
    [
        ("detection_seg/coco_val128", 77, 80, 577),
        ("detection_seg/coco_val128/instances_polygons.json", 60, 80, 442),
        ("detection_seg/raccoon", 74, 1, 80),
        ("detection_seg/raccoon/Annotations", 74, 1, 80),
        ("medical/bccd_detection", 223, 3, 2970),  # one of its 2971 boxes has no area
        ("remote_sensing/neon_trees", 15, 1, 328),
    ],
)
def test_real_sets_are_read_by_their_path(data_dir, path, images, classes, boxes):
    data = read_detection(data_dir / path)
    assert (len(data.items), len(data.class_names)) == (images, classes)
    assert sum(len(item.target.boxes) for item in data.items) == boxes and not data.skipped


def test_boxes_get_the_outlines_of_a_file_beside_and_those_without_one_are_counted(write_coco):
    boxes = [(1, 1, [4, 5, 10, 10]), (1, 2, [4, 5, 10, 10]), (2, 2, [20, 2, 8, 8])]
    outlined = [
        {"image_id": 1, "category_id": 2, "segmentation": [SQUARE], "bbox": [4.2, 5, 10, 10]},
        {"image_id": 1, "category_id": 1, "segmentation": [SQUARE]},  # its corners are the polygon's
        {"image_id": 2, "category_id": 1, "segmentation": [[20, 2, 28, 2, 28, 10, 20, 10]], "bbox": [20, 2, 8, 8]},
    ]
    write_coco(outlined, name="masks.json")
    folder = write_coco(boxes, name="boxes.json")
    data = read_detection(folder)
    assert [item.target.boxes for item in data.items] == [((4, 5, 14, 15),) * 2, ((20, 2, 28, 10),)]
    assert [item.target.segments for item in data.items] == [([SQUARE], [SQUARE]), None]  # the last: another class
    assert data.notes == [
        "Outlines of masks.json, taken for the same boxes of boxes.json: 2.",
        "Boxes without an outline, which models that learn outlines do not learn from: 1.",
    ]
    assert not any(item.target.segments for item in read_detection(folder / "boxes.json").items)


def test_one_outline_is_that_of_one_box_and_a_box_elsewhere_gets_none(write_coco):
    write_coco([{"image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [4, 5, 10, 10]}], name="masks.json")
    folder = write_coco([(1, 1, [4, 5, 10, 9.6]), (1, 1, [4, 5, 10, 10]), (1, 1, [9, 5, 10, 10])], name="boxes.json")
    assert read_detection(folder).items[0].target.segments == (None, [SQUARE], None)


def test_a_file_beside_without_outlines_is_named_as_not_read(write_coco):
    write_coco([(1, 2, [4, 5, 10, 10])], name="dogs.json")
    folder = write_coco([(1, 1, [4, 5, 10, 10])], name="cats.json")
    data = read_detection(folder)
    assert data.notes[0].startswith("Read cats.json; not read: dogs.json") and not data.items[0].target.segments


def test_an_image_listed_twice_keeps_the_outline_of_either(write_coco):
    write_coco([(1, 1, [4, 5, 10, 10])], name="boxes_train.json", images=("a.png",))
    masks = {"image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [4, 5, 10, 10]}
    folder = write_coco([masks], name="masks_train.json", images=("a.png",))
    assert read_detection(folder).items[0].target.segments == ([SQUARE],)
