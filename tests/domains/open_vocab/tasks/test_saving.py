"""Predictions as files that other programs read, and that our own readers read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.data import read_detection, read_segmentation
from vladapt.domains.open_vocab.data.outlines import decode, encode
from vladapt.domains.open_vocab.drawing import colour_of
from vladapt.domains.open_vocab.inference.predictions import PredictedBoxes, PredictedMap
from vladapt.domains.open_vocab.inference.saving import file_names, labels_of, save_boxes, save_maps

NAMES = ("cat", "red panda", "emu")


def _boxes(boxes, scores, labels, masks=None) -> PredictedBoxes:
    outlines = None if masks is None else [encode(mask.astype(np.uint8)) for mask in masks]
    return PredictedBoxes(np.array(boxes, float).reshape(-1, 4), np.array(scores), np.array(labels, int), outlines)


def _rows(data, found):
    return [{"id": item.id, **one.row(NAMES)} for item, one in zip(data.items, found, strict=True)]


@pytest.fixture
def masks():
    made = np.zeros((2, 20, 30), bool)
    made[0, 2:8, 3:9], made[1, 10:18, 11:29] = True, True
    return made


@pytest.mark.parametrize("with_masks", [False, True])
def test_boxes_are_coco_json_that_reads_back(make_images, tmp_path, masks, with_masks):
    data = make_images([(20, 30), (16, 16)], NAMES)
    first = _boxes([[3, 2, 9, 8], [11, 10, 29, 18]], [0.9, 0.1], [1, 2], masks if with_masks else None)
    second = _boxes([], [], [], [] if with_masks else None)
    out = tmp_path / "out"
    out.mkdir()
    files = save_boxes(_rows(data, [first, second]), data, NAMES, out)
    assert {file.relative_to(out).as_posix() for file in files} == {
        "pictures/00.png",
        "pictures/01.png",
        "predictions.json",
    }
    content = json.loads((out / "predictions.json").read_text())
    assert [entry["name"] for entry in content["categories"]] == list(NAMES)
    assert [entry["score"] for entry in content["annotations"]] == [0.9, 0.1]
    for item in data.items:
        (out / item.id).write_bytes(item.source.read_bytes())
    back = read_detection(out / "predictions.json")
    assert back.class_names == NAMES and back.items[0].target.boxes == ((3, 2, 9, 8), (11, 10, 29, 18))
    assert back.items[0].target.labels == (1, 2) and back.items[1].target.boxes == () and not back.skipped
    if with_masks:
        assert all((decode(outline) == mask).all() for outline, mask in zip(back.items[0].target.segments, masks))
        assert [entry["area"] for entry in content["annotations"]] == [36, 144]
        assert [item.source.name for item in read_segmentation(out / "predictions.json").items]
    else:
        assert back.items[0].target.segments is None and content["annotations"][0]["area"] == 36


def test_the_coco_file_is_one_that_pycocotools_takes(make_images, tmp_path, masks, capsys):
    from pycocotools.coco import COCO

    data = make_images([(20, 30)] * 2, NAMES)
    found = _boxes([[3, 2, 9, 8], [11, 10, 29, 18]], [0.9, 0.4], [0, 2], masks)
    save_boxes(_rows(data, [found, found]), data, NAMES, tmp_path)
    coco = COCO(tmp_path / "predictions.json")
    assert len(coco.anns) == 4 and len(coco.imgs) == 2 and set(coco.anns) == {1, 2, 3, 4}
    assert (coco.annToMask(coco.anns[4]).astype(bool) == masks[1]).all()
    assert coco.imgs[1] == {"id": 1, "file_name": "00.png", "width": 30, "height": 20}


def test_pictures_show_sure_boxes_alone(make_images, tmp_path):
    data = make_images([(400, 400)] * 2, NAMES)
    found = [_boxes([[100, 100, 200, 200]], [score], [2]) for score in (0.3, 0.29)]
    save_boxes(_rows(data, found), data, NAMES, tmp_path)
    first, second = (np.asarray(Image.open(tmp_path / "pictures" / f"{n:02d}.png")) for n in range(2))
    assert tuple(first[200, 150].tolist()) == colour_of(2)
    assert (second == data.load(data.items[1])).all()
    save_boxes(_rows(data, found), data, NAMES, tmp_path, drawn_from=0.2)
    second = np.asarray(Image.open(tmp_path / "pictures" / "01.png"))
    assert tuple(second[200, 150].tolist()) == colour_of(2)


@pytest.mark.parametrize("shape", [(20, 30), (64, 48)])
def test_masks_are_index_pngs_that_read_back(make_images, tmp_path, shape):
    data = make_images([shape] * 3, NAMES)
    maps = [np.random.default_rng(n).integers(0, 3, shape) for n in range(2)] + [np.full(shape, 1)]
    out = tmp_path / "out"
    out.mkdir()
    files = save_maps(_rows(data, [PredictedMap(one) for one in maps]), data, NAMES, out)
    assert len(files) == 7 and all(file.is_file() for file in files)
    assert json.loads((out / "classes.json").read_text()) == list(NAMES)
    (out / "images").mkdir()
    for item in data.items:
        (out / "images" / item.id).write_bytes(item.source.read_bytes())
    back = read_segmentation(out)
    assert back.class_names == NAMES and not back.skipped and not back.notes
    assert all((back.load_mask(item) == one).all() for item, one in zip(back.items, maps, strict=True))
    stored = Image.open(out / "masks" / "00.png")
    assert stored.mode == "P" and tuple(stored.getpalette()[3:6]) == colour_of(1)


def test_more_classes_than_a_byte_holds_are_written_with_two(make_images, tmp_path):
    names = [f"thing {number}" for number in range(1203)]
    data = make_images([(8, 9)], names)
    found = PredictedMap(np.arange(72).reshape(8, 9) * 16)
    save_maps([{"id": "00.png", **found.row(names)}], data, names, tmp_path)
    assert (np.asarray(Image.open(tmp_path / "masks" / "00.png")) == found.classes).all()


# Names of files


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a.png", "b.jpg"], ["a", "b"]),
        (["a.png", "a.jpg", "A.png"], ["a", "a-2", "A-3"]),
        (["a.png", "a-2.png", "a.jpg"], ["a", "a-2", "a-3"]),
        (["data/x/a.png", "data/y/a.png"], ["x_a", "y_a"]),
        (["/tmp/set/a.png"], ["a"]),
        (["../a.png", "../../a.png", "./a.png"], ["a", "a-2", "a-3"]),
        (["/a.png", "b/a.png"], ["a", "b_a"]),
        (["x.y.png", "scan.nii.gz"], ["x.y", "scan.nii"]),
    ],
)
def test_names_are_short_and_no_two_alike(ids, names):
    assert file_names(ids) == names


def test_no_name_leaves_the_folder_or_is_too_long_for_a_disk(tmp_path):
    long = ["x" * 240 + "/" + "y" * 240 + ".png", "ö" * 200 + ".png", "ö" * 201 + ".png"]
    ids = ["../../etc/passwd", "/etc/passwd", "..", ".", "/", "a/../../b.png", *long]
    names = file_names(ids)
    assert len({name.casefold() for name in names}) == len(ids)
    for name in names:
        place = (tmp_path / f"{name}.png").resolve()
        assert place.parent == tmp_path.resolve() and len(place.name) < 255
        place.touch()
    assert len(list(Path(tmp_path).iterdir())) == len(ids)


def test_masks_become_one_map_without_the_background():
    names = ("background", "red panda", "emu")
    classes = np.zeros((6, 9), dtype=int)
    classes[1:3, 2:5], classes[4:, 6:], classes[0, 0] = 1, 2, -1
    labels = labels_of({"id": "a", **PredictedMap(classes).row(names)}, names)
    assert labels.structures == {"red panda": (2,), "emu": (3,)}
    assert np.array_equal(labels.values, np.where(classes > 0, classes + 1, 0))
    nothing = labels_of({"id": "a", "size": [4, 5], "masks": {}}, names)
    assert nothing.values.shape == (4, 5) and not nothing.values.any()
