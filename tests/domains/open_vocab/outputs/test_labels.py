"""Labels as files: what is written is read back by our own readers, and by pycocotools, with who made it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("pycocotools", reason="extra open-vocab is not installed")

from vladapt.core.contracts.items import DomainData, Item
from vladapt.core.data.coco import read_coco_crops
from vladapt.core.data.crops import Box, ListedImage
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry.build import outputs_of
from vladapt.domains.open_vocab.data import read_detection, read_segmentation
from vladapt.domains.open_vocab.data.outlines import decode, encode, outline_mask
from vladapt.domains.open_vocab.data.polygons import one_polygon, polygons_of
from vladapt.domains.open_vocab.labels.label_set import IMAGES, LabelSet, labels_of_rows

NAMES = ("crack", "rust spot", "Öl, alt: #1 'x'")
KINDS = ("coco", "yolo", "voc")
SIZE = (40, 30)


def _pictures(folder: Path, count: int) -> dict[str, Item]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return {f"{n}.png": Item(id=f"{n}.png", source=folder / f"{n}.png") for n in range(count)}


def _label_set(pictures: dict[str, Item], boxes, splits=None) -> LabelSet:
    listed = []
    for number, (name, of_image) in enumerate(zip(pictures, boxes, strict=True)):
        made_by = Box.MODEL if any(box.made_by == Box.MODEL for box in of_image) else Box.PERSON
        split = splits[number] if splits else ""
        listed.append(ListedImage(name, Path(), (), tuple(of_image), split, SIZE, made_by=made_by))
    return LabelSet(NAMES, listed, pictures, loader((IMAGE,)))


def _written(labels: LabelSet, folder: Path, asked: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    [kind] = outputs_of(asked)
    return kind.write(SimpleNamespace(labels=labels), None, None, folder)


def _read(folder: Path):
    """Name of each image -> its (class, corners, ignored), and whether it is reviewed."""
    data = read_detection(folder)
    read = {}
    for item in data.items:
        target = item.target
        ignored = target.ignored or (False,) * len(target.boxes)
        boxes = [(data.class_names[c], box, i) for c, box, i in zip(target.labels, target.boxes, ignored)]
        read[item.source.name] = (boxes, item.unreviewed, item.split)
    return data, read


CORNER = st.integers(0, 99)


@st.composite
def a_box(draw_):
    x0, y0 = draw_(CORNER) / 100 * (SIZE[0] - 2), draw_(CORNER) / 100 * (SIZE[1] - 2)
    width, height = draw_(st.integers(1, 200)) / 100, draw_(st.integers(1, 200)) / 100
    corners = tuple(round(value, 2) for value in (x0, y0, x0 + width, y0 + height))
    by_model = draw_(st.booleans())
    return Box(
        draw_(st.sampled_from(NAMES)),
        corners,
        ignored=draw_(st.booleans()) and not by_model,
        made_by=Box.MODEL if by_model else Box.PERSON,
        score=draw_(st.integers(0, 10**5)) / 10**5 if by_model else None,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(kind, tmp_path_factory):
    pictures = _pictures(tmp_path_factory.mktemp("pool"), 3)

    @settings(max_examples=12, deadline=None, database=None)
    @given(st.lists(st.lists(a_box(), max_size=4), min_size=3, max_size=3), st.booleans())
    def check(boxes, with_splits):
        boxes[0].append(Box(NAMES[1], (1.0, 2.0, 8.0, 9.0), made_by=Box.PERSON))
        splits = ("test", "train", "val") if with_splits else None
        folder = tmp_path_factory.mktemp("out")
        _written(_label_set(pictures, boxes, splits), folder, kind)
        data, read = _read(folder)
        assert not data.skipped and set(read) == set(pictures)
        for number, (name, of_image) in enumerate(zip(pictures, boxes)):
            kept = [box for box in of_image if not (kind == "yolo" and box.ignored)]
            back, unreviewed, split = read[name]
            assert [(one[0], one[2]) for one in back] == [(box.name, box.ignored) for box in kept]
            assert np.allclose([one[1] for one in back], [box.corners for box in kept], atol=1e-6)
            assert unreviewed == any(box.made_by == Box.MODEL for box in of_image)
            assert not with_splits or split == splits[number]

    check()


def test_pycocotools_reads_boxes_outlines_scores_and_sources(tmp_path, capsys):
    from pycocotools.coco import COCO

    mask = np.zeros(SIZE[::-1], bool)
    mask[3:9, 4:14], mask[5, 6], mask[20:25, 30:38] = True, False, True
    box = Box("crack", (4.0, 3.0, 38.0, 25.0), encode(mask), made_by=Box.MODEL, score=0.75)
    labels = _label_set(_pictures(tmp_path / "pool", 1), [[box]])
    for asked in ("coco", "coco:outline=polygons"):
        _written(labels, tmp_path / asked[-3:], asked)
        coco = COCO(tmp_path / asked[-3:] / "instances.json")
        assert coco.anns[1]["source"] == "model" and coco.anns[1]["score"] == 0.75
        assert coco.anns[1]["bbox"] == [4, 3, 34, 22] and coco.anns[1]["area"] == mask.sum()
        seen = coco.annToMask(coco.anns[1]).astype(bool)
        assert (seen == mask).all() if asked == "coco" else (seen ^ mask).sum() == 1  # the hole is filled
    back = read_detection(tmp_path / "oco").items[0].target
    assert (decode(back.segments[0]) == mask).all()
    assert [item.unreviewed for item in read_segmentation(tmp_path / "oco").items] == [True]


@pytest.mark.parametrize("seed", range(3))
def test_polygons_follow_the_edges_of_pixels(seed):
    random = np.random.default_rng(seed)
    mask = np.zeros((30, 40), bool)
    for _ in range(3):
        top, left = random.integers(0, 20), random.integers(0, 30)
        mask[top : top + random.integers(3, 9), left : left + random.integers(3, 9)] = True
    drawn = outline_mask(polygons_of(encode(mask), SIZE), SIZE)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97
    whole = outline_mask([one_polygon(encode(mask), SIZE)], SIZE)
    assert (whole & mask).sum() / (whole | mask).sum() > 0.85 and (whole & mask).sum() >= 0.97 * mask.sum()
    assert polygons_of(encode(np.zeros((30, 40), bool)), SIZE) == []
    corners = polygons_of(encode(np.pad(np.ones((4, 6), bool), ((2, 24), (5, 29)))), SIZE)
    assert sorted(zip(corners[0][::2], corners[0][1::2])) == [(5, 2), (5, 6), (11, 2), (11, 6)]


def test_outlines_of_yolo_are_one_polygon_each(tmp_path):
    mask = np.zeros(SIZE[::-1], bool)
    mask[3:9, 4:14] = True
    box = Box("rust spot", (4.0, 3.0, 14.0, 9.0), encode(mask), made_by=Box.MODEL, score=0.5)
    _written(_label_set(_pictures(tmp_path / "pool", 1), [[box]]), tmp_path / "out", "yolo")
    [line] = (tmp_path / "out" / "labels" / "0.txt").read_text().splitlines()
    assert line.split()[0] == "1" and len(line.split()) == 9
    target = read_detection(tmp_path / "out").items[0].target
    assert target.boxes[0] == pytest.approx((4, 3, 14, 9), abs=1e-6)
    assert (outline_mask(target.segments[0], SIZE) == mask).all()


def test_voc_says_who_looked_in_its_own_element(tmp_path):
    boxes = [[Box("crack", (1.0, 2.0, 3.0, 4.0), made_by=Box.MODEL, score=0.25)], []]
    _written(_label_set(_pictures(tmp_path / "pool", 2), boxes), tmp_path / "out", "voc")
    first, second = (ElementTree.parse(tmp_path / "out" / "Annotations" / f"{n}.xml") for n in range(2))
    assert first.findtext("source/annotation") == "model" and second.findtext("source/annotation") == "person"
    assert first.findtext("object/source") == "model" and first.findtext("object/score") == "0.25"
    bad = _label_set(_pictures(tmp_path / "pool", 2), boxes)
    bad.class_names = ("a\x01",)
    with pytest.raises(ConfigError, match="XML cannot hold"):
        _written(bad, tmp_path / "bad", "voc")


def test_a_changed_yolo_file_still_belongs_to_an_unreviewed_image(tmp_path):
    box = Box("crack", (1.0, 2.0, 3.0, 4.0), made_by=Box.MODEL, score=0.25)
    _written(_label_set(_pictures(tmp_path / "pool", 1), [[box]]), tmp_path / "out", "yolo")
    (tmp_path / "out" / "labels" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.1 0.1\n")
    assert [item.unreviewed for item in read_detection(tmp_path / "out").items] == [True]
    (tmp_path / "out" / "sources.json").write_text("[]")
    with pytest.raises(DataError, match=r"sources\.json: does not say"):
        read_detection(tmp_path / "out")


def test_crops_of_unreviewed_boxes_are_unreviewed(tmp_path):
    boxes = [[Box(name, (1.0, 2.0, 9.0, 9.0), made_by=who) for name, who in zip(NAMES, (Box.MODEL, Box.PERSON))]]
    _written(_label_set(_pictures(tmp_path / "pool", 1), boxes), tmp_path / "out", "coco")
    assert [item.unreviewed for item in read_coco_crops(tmp_path / "out").items] == [True, False]


# Images


def test_images_are_second_names_of_their_files_and_parts_become_png(tmp_path):
    pictures = _pictures(tmp_path / "pool", 2)
    pictures["1.png"] = pictures["1.png"].with_(decode={"box": [0, 0, 10, 8]})
    labels = _label_set(pictures, [[], []])
    _written(labels, tmp_path / "out", "coco")
    _written(labels, tmp_path / "out", "voc")
    assert (tmp_path / "out" / IMAGES / "0.png").samefile(tmp_path / "pool" / "0.png")
    assert Image.open(tmp_path / "out" / IMAGES / "1.png").size == (10, 8)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    other = _label_set(_pictures(tmp_path / "others", 1), [[]])
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "others" / "0.png")
    with pytest.raises(DataError, match="another image of that name"):
        _written(other, tmp_path / "out", "coco")


def test_another_part_of_that_name_is_refused(tmp_path):
    pictures = _pictures(tmp_path / "pool", 1)
    of_part = {n: pictures["0.png"].with_(decode={"box": [n, 0, n + 9, 8]}) for n in range(2)}
    for _ in range(2):  # the same one may be there
        _written(_label_set({"0.png": of_part[0]}, [[]]), tmp_path / "out", "coco")
    with pytest.raises(DataError, match="another image of that name"):
        _written(_label_set({"0.png": of_part[1]}, [[]]), tmp_path / "out", "coco")
    (tmp_path / "out" / IMAGES / "0.png").write_bytes(b"none")
    with pytest.raises(DataError, match="another image of that name"):
        _written(_label_set({"0.png": of_part[0]}, [[]]), tmp_path / "out", "coco")


@pytest.mark.parametrize("kind", KINDS)
def test_file_names_that_no_text_can_hold_are_written_otherwise(tmp_path, kind):
    [path] = [item.source for item in _pictures(tmp_path / "pool", 1).values()]
    data = _data({})
    for name in ("caf\udce9.png", "a\x01b.png", " c .png"):
        source = path.with_name(name)
        source.write_bytes(path.read_bytes())
        data.items.append(Item(id=name, source=source))
    labels = labels_of_rows([_row(item.id, [[1, 2, 9, 8]], [0.5], ["crack"]) for item in data.items], data, NAMES)
    _written(labels, tmp_path / "out", kind)
    assert sorted(_read(tmp_path / "out")[1]) == ["a_b.png", "c.png", "caf_.png"]


@pytest.mark.parametrize("name", ["", " cat", "cat "])
@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_class_names_that_would_be_read_as_others_are_refused(tmp_path, kind, name):
    labels = _label_set(_pictures(tmp_path / "pool", 1), [[]])
    labels.class_names = (*NAMES, name)
    with pytest.raises(ConfigError, match="is empty or has blanks at its ends; rename the class"):
        _written(labels, tmp_path / "out", kind)
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_with_other_labels_is_refused_before_anything_is_read(tmp_path):
    labels = _label_set(_pictures(tmp_path / "pool", 1), [[]])
    for asked in KINDS:
        _written(labels, tmp_path / asked, asked)
        with pytest.raises(ConfigError, match="holds other labels"):
            outputs_of("coco")[0].check(SimpleNamespace(out=tmp_path / asked), None)
    outputs_of("coco")[0].check(SimpleNamespace(out=tmp_path / "new"), None)


# What a model found


def _data(pictures: dict[str, Item], target=None) -> DomainData:
    return DomainData(list(pictures.values()), (), loader((IMAGE,)), name="set")


def _row(id_, boxes, scores, labels, **more):
    return {"id": id_, "boxes": boxes, "scores": scores, "labels": labels, **more}


def test_sure_boxes_become_labels_inside_their_image(tmp_path):
    pictures = _pictures(tmp_path, 2)
    rows = [
        _row("0.png", [[1, 2, 50, 9], [1, 1, 2, 2], [41, 1, 45, 2]], [0.9, 0.4, 0.9], ["crack", "crack", "crack"]),
        _row("1.png", [], [], []),
    ]
    labels = labels_of_rows(rows, _data(pictures), NAMES, least=0.5)
    first, second = labels.images
    assert [box.corners for box in first.boxes] == [(1, 2, 40, 9)] and first.boxes[0].score == 0.9
    assert first.unreviewed and second.unreviewed and not second.boxes and first.size == SIZE


def test_outlines_are_labels_where_they_are_asked_for(tmp_path):
    mask = encode(np.ones(SIZE[::-1], bool))
    rows = [_row("0.png", [[1, 2, 5, 9]], [0.9], ["crack"], masks=[mask])]
    for masks in (True, False):
        labels = labels_of_rows(rows, _data(_pictures(tmp_path, 1)), NAMES, masks=masks)
        assert labels.images[0].boxes[0].outline == (mask if masks else None)


def test_classes_of_a_segmentor_are_objects_but_for_the_background(tmp_path):
    mask = np.zeros(SIZE[::-1], bool)
    mask[2:5, 3:9] = True
    row = {"id": "0.png", "shares": {}, "masks": {"background": encode(~mask), "crack": encode(mask)}}
    labels = labels_of_rows([row], _data(_pictures(tmp_path, 1)), ("background", "crack"))
    [box] = labels.images[0].boxes
    assert box.name == "crack" and box.corners == (3, 2, 9, 5) and box.score is None


def test_the_labels_of_people_stand_beside_and_win(tmp_path):
    from vladapt.core.contracts.items import Boxes

    pictures = _pictures(tmp_path, 3)
    target = Boxes(((1.0, 2.0, 3.0, 4.0),), (0,), size=SIZE)
    theirs = pictures["1.png"].with_(id="mine/1.png", target=target, split="test")
    own = replace(_data({"1.png": theirs}), class_names=("rust spot",))
    rows = [_row(name, [[1, 2, 5, 9]], [0.9], ["crack"]) for name in pictures]
    labels = labels_of_rows(rows, _data(pictures), NAMES, own=own)
    assert [(image.split, image.made_by) for image in labels.images] == [
        ("test", "person"),
        ("", "model"),
        ("", "model"),
    ]
    assert labels.class_names == ("rust spot", "crack", NAMES[2])
    assert list(labels.pictures) == ["1.png", "0.png", "2.png"]
    _written(labels, tmp_path / "out", "coco")
    files = sorted(file.name for file in (tmp_path / "out").glob("*.json"))
    assert files == ["instances_test.json", "instances_train.json", "instances_val.json"]
    assert len(json.loads((tmp_path / "out" / "instances_train.json").read_text())["images"]) == 2


def test_new_images_of_other_folders_keep_their_names_and_alike_ones_get_a_number(tmp_path):
    mine, others = _pictures(tmp_path / "mine", 1), _pictures(tmp_path / "deep" / "others", 2)
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(tmp_path / "mine" / "0.png")
    own = replace(_data({"0.png": mine["0.png"].with_(id="images/0.png", split="train")}), class_names=NAMES)
    new = {f"{tmp_path}/deep/others/{name}": item for name, item in others.items()}
    data = _data({id_: item.with_(id=id_) for id_, item in new.items()})
    labels = labels_of_rows([_row(id_, [], [], []) for id_ in new], data, NAMES, own=own)
    assert list(labels.pictures) == ["0.png", "0-2.png", "1.png"]
