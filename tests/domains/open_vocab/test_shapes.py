"""The drawn sample set: the same everywhere, whole or not at all, with every class in every split."""

import hashlib
import json
import os
import threading

import numpy as np
import pytest

from vladapt.domains.open_vocab import shapes
from vladapt.domains.open_vocab.data import read_detection
from vladapt.domains.open_vocab.data.outlines import outline_mask as drawn_outline


@pytest.fixture
def few(monkeypatch):
    """A set of a few pictures."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 6, "val": 2, "test": 3})


def _digest(folder) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = b"".join(path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in files)
    return hashlib.sha256(named).hexdigest()


def test_the_set_is_drawn_once_and_is_the_same_again(few, tmp_path, monkeypatch):
    folder = shapes.shapes_folder()
    first, drawn_at = _digest(folder), folder.stat().st_mtime_ns
    assert shapes.shapes_folder() == folder and folder.stat().st_mtime_ns == drawn_at
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "elsewhere"))
    assert shapes.shapes_folder() != folder and _digest(shapes.shapes_folder()) == first


def test_processes_that_draw_at_once_leave_one_whole_set(few):
    folders, errors = [], []

    def make():
        try:
            folders.append(shapes.shapes_folder())
        except Exception as error:  # told by the main thread
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(set(folders)) == 1
    assert os.listdir(folders[0].parent) == [folders[0].name]
    assert len(read_detection(folders[0]).items) == 11


def test_a_stop_half_way_leaves_no_half_set(few, monkeypatch):
    drawing = shapes.draw_shapes
    monkeypatch.setattr(shapes, "draw_shapes", lambda n: pytest.fail("stopped") if n > 3 else drawing(n))
    with pytest.raises(pytest.fail.Exception):
        shapes.shapes_folder()
    monkeypatch.setattr(shapes, "draw_shapes", drawing)
    assert len(list((shapes.shapes_folder() / "images").iterdir())) == 11


def test_it_is_a_coco_set_with_splits_and_outlines(few):
    data = read_detection(shapes.shapes_folder())
    assert data.class_names == shapes.NAMES and len(set(shapes.NAMES)) == 16
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [6, 2, 3]
    assert not data.skipped and all(item.target.segments and not item.target.ignored for item in data.items)


def test_every_class_is_in_training_and_test():
    first = 0
    for split, count in shapes.COUNTS.items():
        there = {label for n in range(first, first + count) for label, _ in shapes.draw_shapes(n)[1]}
        assert split == "val" or len(there) == len(shapes.NAMES)
        first += count


def test_what_is_held_out_has_each_colour_and_each_shape_once():
    assert set(shapes.HELD_OUT) <= set(shapes.NAMES)
    words = [name.split() for name in shapes.HELD_OUT]
    assert sorted(colour for colour, _ in words) == sorted(shapes.COLOURS)
    assert sorted(shape for _, shape in words) == sorted(shapes.SHAPES)


def test_boxes_outlines_and_colours_are_where_the_annotation_says(few):
    folder = shapes.shapes_folder()
    content = json.loads((folder / "instances_train.json").read_text())
    for annotation in content["annotations"]:
        label = annotation["category_id"] - 1
        mask = drawn_outline(annotation["segmentation"], (shapes.SIDE, shapes.SIDE)).astype(bool)
        assert abs(mask.sum() - annotation["area"]) < 0.15 * annotation["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = annotation["bbox"]
        seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.allclose(seen, (x, y, x + width, y + height), atol=2.5)  # thin tips cover no pixel
        pixels = shapes.draw_shapes(annotation["image_id"])[0][mask]
        colour = shapes.COLOURS[shapes.NAMES[label].split()[0]]
        assert np.abs(np.median(pixels, axis=0) - colour).max() < 8


def test_shapes_do_not_touch_and_stay_inside():
    for number in range(30):
        pixels, things = shapes.draw_shapes(number)
        assert pixels.shape == (shapes.SIDE, shapes.SIDE, 3) and pixels.dtype == np.uint8
        assert 1 <= len(things) <= shapes.MOST
        masks = [drawn_outline([[v for point in o for v in point]], (shapes.SIDE,) * 2) for _, o in things]
        assert np.sum(masks, axis=0).max() == 1
        assert all(0 <= v <= shapes.SIDE for _, outline in things for point in outline for v in point)
