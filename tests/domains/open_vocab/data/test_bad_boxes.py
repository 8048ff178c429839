"""What is wrong in a set of boxes is handled by a stated rule or said in one line."""

import json

import pytest

from vladapt import DataError, DomainData
from vladapt.domains.open_vocab.data import read_detection

GOOD = (1, 1, [4, 5, 10, 10])


def note(data, sentence):
    """The count in the note that begins with a sentence."""
    found = [note for note in data.notes if note.startswith(sentence)]
    return int(found[0].rsplit(": ", 1)[1].rstrip(".")) if found else 0


def boxes(data):
    return [box for item in data.items for box in item.target.boxes]


def test_boxes_are_cut_at_the_edge_and_those_outside_left_out(write_coco):
    data = read_detection(write_coco([GOOD, (1, 1, [30, 20, 30, 30]), (1, 2, [50, 0, 5, 5]), (1, 2, [-9, 0, 5, 5])]))
    assert boxes(data) == [(4, 5, 14, 15), (30, 20, 40, 30)]
    assert note(data, "Boxes that reached more than a pixel beyond") == 1
    assert note(data, "Boxes outside their image, left out") == 2


def test_boxes_without_area_and_with_no_numbers_are_left_out(write_coco):
    flat = [(1, 1, [4, 5, 0, 10]), (1, 1, [4, 5, 10, -1])]
    data = read_detection(write_coco([GOOD, *flat, (1, 1, [float("nan"), 5, 10, 10]), (1, 1, [4, 5, float("inf"), 1])]))
    assert boxes(data) == [(4, 5, 14, 15)]
    assert note(data, "Boxes without area, left out") == 2
    assert note(data, "Boxes with a coordinate that is not a number, left out") == 2


def test_an_image_without_boxes_is_background_but_a_set_without_any_is_no_set(write_coco):
    data = read_detection(write_coco([GOOD]))
    assert [len(item.target.boxes) for item in data.items] == [1, 0] and note(data, "Images without a box") == 1
    with pytest.raises(DataError, match=r"no usable box in 2 images; annotate some"):
        read_detection(write_coco([]))
    with pytest.raises(DataError, match=r"no usable box in 2 images \(boxes without area, left out: 1"):
        read_detection(write_coco([(1, 1, [4, 5, 0, 0])]))


def test_an_image_without_a_file_is_listed(write_coco):
    data = read_detection(write_coco([GOOD, (2, 1, [0, 0, 5, 5])], missing=("b.png",)))
    assert len(data.items) == 1 and data.skipped[0][0] == "b.png" and "no such file" in data.skipped[0][1]


def test_an_image_that_is_none_is_listed(write_coco):
    folder = write_coco([GOOD])
    (folder / "images" / "b.png").write_bytes(b"not an image")
    data = read_detection(folder)
    assert [item.id for item in data.items] == ["images/a.png"] and data.skipped[0][0] == "images/b.png"


def test_one_image_id_for_two_files_is_refused_and_one_repeated_is_not(write_coco):
    twice = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "a.png"}]
    folder = write_coco([GOOD])
    change(folder, images=twice)
    assert len(read_detection(folder).items) == 1
    change(folder, images=[twice[0], {"id": 1, "file_name": "b.png"}])
    with pytest.raises(DataError, match=r"image id 1 stands for 'a.png' and for 'b.png'; give each image its own id"):
        read_detection(folder)


def test_one_file_under_two_ids_is_one_image(write_coco):
    folder = write_coco([GOOD, (2, 2, [0, 0, 5, 5])])
    change(folder, images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}])
    data = read_detection(folder)
    assert [item.target.labels for item in data.items] == [(0, 1)] and note(data, "Images listed twice") == 1


def test_an_annotation_repeated_counts_once_and_another_of_its_id_stays(write_coco):
    folder = write_coco([GOOD])
    entry = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [4, 5, 10, 10]}
    change(folder, annotations=[entry, dict(entry), {**entry, "bbox": [0, 0, 5, 5]}])
    data = read_detection(folder)
    assert len(boxes(data)) == 2
    assert note(data, "Annotations that the file holds twice") == 1
    assert note(data, "Different annotations with the same id") == 1


def test_crowds_are_kept_apart(write_coco):
    crowd = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 1}
    data = read_detection(write_coco([GOOD, crowd]))
    assert data.items[0].target.ignored == (False, True) and data.items[1].target.ignored is None


def test_ids_that_are_not_listed_are_left_out(write_coco):
    data = read_detection(write_coco([GOOD, (1, 9, [0, 0, 5, 5]), (8, 1, [0, 0, 5, 5])]))
    assert len(boxes(data)) == 1
    assert note(data, "Annotations of a class id") == 1 and note(data, "Annotations of an image id") == 1


def test_outlines_that_cannot_be_used_go_and_their_boxes_stay(write_coco):
    shapes = [[[1, 2, 3, 4]], [[1.0] * 7], {"size": [9, 9], "counts": [81]}, {"size": [30, 40], "counts": "zz~~"}]
    entries = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": shape} for shape in shapes]
    data = read_detection(write_coco(entries))
    assert len(boxes(data)) == 4 and data.items[0].target.segments is None
    assert note(data, "Unusable outlines") == 4


def test_a_file_cut_short_is_one_line(write_coco):
    folder = write_coco([GOOD])
    file = folder / "instances.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match=r"instances.json: not valid JSON .*; correct it"):
        read_detection(folder)


def test_an_annotation_without_a_box_or_category_list_is_one_line(write_coco):
    with pytest.raises(DataError, match=r"annotation 0 has no usable box"):
        read_detection(write_coco([{"image_id": 1, "category_id": 1}]))
    folder = write_coco([GOOD])
    change(folder, categories=None)
    with pytest.raises(DataError, match=r"has no list of 'categories'"):
        read_detection(folder)


def test_a_path_out_of_the_folder_is_refused(write_coco):
    folder = write_coco([GOOD])
    change(folder, images=[{"id": 1, "file_name": "../../secret.png"}])
    with pytest.raises(DataError):
        read_detection(folder)


def test_a_listed_size_that_is_wrong_counts_in_pixels_of_the_file(write_coco):
    folder = write_coco([GOOD])
    change(folder, images=[{"id": 1, "file_name": "a.png", "width": 400, "height": 300}])
    data = read_detection(folder)
    assert data.items[0].target.size == (40, 30) and note(data, "Images of another size than") == 1


def test_listed_sizes_are_believed_in_large_sets(write_coco, monkeypatch):
    folder = write_coco([GOOD])
    change(folder, images=[{"id": 1, "file_name": "a.png", "width": 400, "height": 300}])
    monkeypatch.setattr(DomainData, "VERIFIED_UP_TO", 0)
    assert read_detection(folder).items[0].target.size == (400, 300)


def test_yolo_lines_that_are_no_objects_unlisted_numbers_and_orphans(tmp_path, write_image):
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    label = tmp_path / "labels" / "a.txt"
    label.write_text("0 0.5 0.5 0.2 0.2\n3 0.5 0.5 0.2 0.2\n0 nan 0.5 0.2 0.2\n")
    (tmp_path / "labels" / "gone.txt").write_text("")
    data = read_detection(tmp_path)
    assert len(boxes(data)) == 1 and note(data, "Objects of a class number that has no name") == 1
    assert note(data, "Boxes with a coordinate that is not a number") == 1
    assert data.skipped == [("labels/gone.txt", "a label file without an image of its name")]
    label.write_text("0 0.5 0.5\n")
    with pytest.raises(DataError, match=r"a.txt line 1: not an object \(3 numbers\); write class x y width height"):
        read_detection(tmp_path)


def test_a_damaged_yaml_is_one_line(tmp_path, write_image):
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("names: [cat\n")
    with pytest.raises(DataError, match=r"data.yaml: cannot be read"):
        read_detection(tmp_path)


def change(folder, **lists):
    file = folder / "instances.json"
    content = {**json.loads(file.read_text()), **lists}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
