"""Labels that a model made, reviewed: each decision is kept at once, and written as a person's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="extra open-vocab is not installed")
pytest.importorskip("starlette", reason="extra labels is not installed")
pytest.importorskip("httpx", reason="the client of starlette's tests is not installed")

from starlette.testclient import TestClient

from vladapt.core.contracts.items import Item
from vladapt.core.data.crops import Box, ListedImage
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.runtime.local_page import app_of
from vladapt.core.runtime.process import stops_like_ctrl_c
from vladapt.domains.open_vocab.data import read_detection
from vladapt.domains.open_vocab.data.outlines import encode
from vladapt.domains.open_vocab.labels.label_set import LabelSet
from vladapt.domains.open_vocab.labels.reading import read_labels
from vladapt.domains.open_vocab.labels.review import DECISIONS, Review
from vladapt.domains.open_vocab.outputs._labels import place_images
from vladapt.domains.open_vocab.outputs.coco import Coco
from vladapt.domains.open_vocab.outputs.voc import Voc
from vladapt.domains.open_vocab.outputs.yolo import Yolo

NAMES, SIZE, TOKEN = ("crack", "rust"), (40, 30), "token-of-the-test"
MASK = np.zeros(SIZE[::-1], bool)
MASK[2:10, 2:12] = True
KINDS = {"coco": Coco, "voc": Voc, "yolo": Yolo}


def _made(folder: Path, kinds=("coco",)) -> Path:
    """Three images of a model's boxes, and one of a person's."""
    (folder / "pool").mkdir(parents=True)
    pictures, listed = {}, []
    for number in range(4):
        Image.fromarray(np.full((SIZE[1], SIZE[0], 3), 40 * number, np.uint8)).save(folder / "pool" / f"{number}.png")
        pictures[f"{number}.png"] = Item(id=f"{number}.png", source=folder / "pool" / f"{number}.png")
        who = Box.PERSON if number == 3 else Box.MODEL
        score = None if who == Box.PERSON else 0.5
        boxes = [
            Box("crack", (2.0, 2.0, 12.0, 10.0), encode(MASK), False, who, score),
            Box("rust", (20.0, 5.0, 30.0, 25.0), None, False, who, score),
        ]
        listed.append(ListedImage(f"{number}.png", Path(), (), tuple(boxes), "", SIZE, made_by=who))
    labels = LabelSet(NAMES, listed, pictures)
    place_images(labels, folder / "set")
    for kind in kinds:
        KINDS[kind]().write_labels(labels, folder / "set")
    return folder / "set"


@pytest.fixture
def folder(tmp_path):
    return _made(tmp_path)


@pytest.fixture
def review(folder):
    made = Review(folder)
    yield made
    made.close()


@pytest.fixture
def client(review):
    return TestClient(app_of(review, TOKEN), base_url="http://127.0.0.1:5000", headers={"X-Token": TOKEN})


def post(client, path, page="one", **body):
    return client.post(path, json={"page": page, **body})


def _kept(name, corners, of):
    return {"name": name, "corners": corners, "of": of}


CRACK, RUST = _kept("crack", [2, 2, 12, 10], 0), _kept("rust", [20, 5, 30, 25], 1)


def _read(folder):
    data = read_detection(folder)
    return {
        item.source.name: (
            sorted((data.class_names[c], *map(round, box)) for c, box in zip(item.target.labels, item.target.boxes)),
            item.unreviewed,
        )
        for item in data.items
    }


def test_images_that_nobody_has_reviewed_are_shown_with_their_boxes(client):
    state = post(client, "/open").json()
    assert state["classes"] == list(NAMES) and [image["name"] for image in state["images"]] == [
        "0.png",
        "1.png",
        "2.png",
    ]
    assert state["images"][0] == {"name": "0.png", "width": 40, "height": 30, "done": False}
    boxes = client.get("/boxes/1").json()["boxes"]
    assert [(box["name"], box["corners"], box["score"]) for box in boxes] == [
        ("crack", [2, 2, 12, 10], 0.5),
        ("rust", [20, 5, 30, 25], 0.5),
    ]
    assert len(boxes[0]["polygons"][0]) == 8 and boxes[1]["polygons"] == []
    assert client.get("/picture/1").headers["content-type"] == "image/png"


@pytest.mark.parametrize("kinds", [("coco",), ("yolo",), ("voc",), ("coco", "yolo", "voc")], ids="+".join)
def test_decisions_become_a_persons_labels_in_every_kind(tmp_path, kinds):
    folder = _made(tmp_path, kinds)
    review = Review(folder)
    client = TestClient(app_of(review, TOKEN), base_url="http://127.0.0.1:5000", headers={"X-Token": TOKEN})
    assert post(client, "/decide", image=0, boxes=[CRACK, RUST]).json() == {"accepted": 2, "dropped": 0}
    changed = [_kept("rust", [2, 2, 12, 10], 0), _kept("crack", [30.5, 20, 99, 28], None)]
    assert post(client, "/decide", image=1, boxes=changed).json() == {"corrected": 1, "dropped": 1, "added": 1}
    review.close()
    after = Review(folder)  # a killed page wrote no labels
    assert after.apply() == {"images": 2, "accepted": 2, "corrected": 1, "dropped": 1, "added": 1}
    after.close()
    for others in [[kind for kind in kinds if kind != each] for each in kinds]:
        seen = shutil.copytree(folder, tmp_path / f"but-{'-'.join(others)}")
        for kind in others:
            for path in {"coco": ["instances.json"], "yolo": ["labels", "data.yaml"], "voc": ["Annotations"]}[kind]:
                shutil.rmtree(seen / path) if (seen / path).is_dir() else (seen / path).unlink()
        read = _read(seen)
        assert read["0.png"] == ([("crack", 2, 2, 12, 10), ("rust", 20, 5, 30, 25)], False)
        assert read["1.png"] == ([("crack", 30, 20, 40, 28), ("rust", 2, 2, 12, 10)], False)
        assert read["2.png"][1] and not read["3.png"][1]


@pytest.mark.parametrize("kinds", [("yolo",), ("coco", "yolo", "voc")], ids="+".join)
def test_a_page_killed_while_it_writes_the_labels_leaves_them_old_or_for_the_next_one_to_finish(
    tmp_path, kinds, monkeypatch
):
    folder, states, replace = _made(tmp_path, kinds), [], os.replace
    review = Review(folder)
    review.decide({"image": 0, "boxes": [CRACK]})
    review.decide({"image": 1, "boxes": [CRACK, RUST]})

    def replaced(*paths):
        states.append(shutil.copytree(folder, tmp_path / f"state-{len(states)}"))
        replace(*paths)

    monkeypatch.setattr(os, "replace", replaced)
    review.apply()
    review.close()
    monkeypatch.undo()
    assert len(states) > 4 + 4 * (len(kinds) > 1)
    for state in states:
        after = Review(state)
        assert after.apply()["images"] == 2
        after.close()
        assert _files(state) == _files(folder)


def _files(folder):
    """The labels of a set; neither hidden files nor images."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".json", ".txt", ".xml", ".yaml")]
    return {str(name): path.read_text() for path in paths if not str(name := path.relative_to(folder)).startswith(".")}


def test_outlines_stay_with_boxes_that_were_not_moved(folder, client, review):
    moved = _kept("crack", [3, 2, 12, 10], 0)
    post(client, "/decide", image=0, boxes=[_kept("rust", [2, 2, 12, 10], 0)])
    post(client, "/decide", image=1, boxes=[moved])
    review.apply()
    content = json.loads((folder / "instances.json").read_text())
    of = {entry["image_id"]: entry for entry in content["annotations"]}
    assert of[1]["segmentation"] == encode(MASK) and "segmentation" not in of[2]
    assert of[1]["source"] == "person" and "score" not in of[1]


def test_a_second_look_and_an_undo_count(folder, client, review):
    post(client, "/decide", image=0, boxes=[])
    assert client.get("/boxes/0").json() == {"boxes": []}
    post(client, "/decide", image=0, boxes=[_kept("crack", [1, 1, 5, 5], None)])
    assert [box["corners"] for box in client.get("/boxes/0").json()["boxes"]] == [[1, 1, 5, 5]]
    assert post(client, "/undo").json() == {"image": 0} and post(client, "/undo").json() == {"image": None}
    assert len(client.get("/boxes/0").json()["boxes"]) == 2
    assert not post(client, "/open").json()["images"][0]["done"] and review.apply() == {"images": 0}


def test_applied_twice_is_the_same_and_an_empty_image_is_reviewed_too(folder, client, review):
    post(client, "/decide", image=2, boxes=[])
    review.apply()
    once = (folder / "instances.json").read_bytes()
    review.close()
    with stops_like_ctrl_c() as stops:
        again = Review(folder)
    assert stops.kept == {"decisions": str(folder / DECISIONS)}
    assert again.apply()["images"] == 1 and (folder / "instances.json").read_bytes() == once
    again.close()
    assert _read(folder)["2.png"] == ([], False)


def _labels_of(folder, name):
    [image] = [image for image in read_labels(folder).images if image.name == name]
    return image.made_by, image.boxes


def test_undo_after_an_apply_brings_the_boxes_of_the_model_back(folder, client, review):
    before = _labels_of(folder, "0.png")
    post(client, "/decide", image=0, boxes=[CRACK])
    review.apply()
    assert _labels_of(folder, "0.png") != before
    post(client, "/decide", image=0, boxes=[])  # a second look, at labels of a person
    review.apply()
    assert post(client, "/undo").json() == {"image": 0}
    assert len(client.get("/boxes/0").json()["boxes"]) == 2 and _labels_of(folder, "0.png") == before
    review.close()
    again = Review(folder)
    assert again.apply() == {"images": 0} and len(again.images) == 3 and _labels_of(folder, "0.png") == before
    again.close()


def test_what_was_applied_is_not_written_over_labels_that_were_changed_since(folder, client, review):
    post(client, "/decide", image=0, boxes=[CRACK, RUST])
    review.apply()
    review.close()
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][1]["bbox"] = [21, 6, 5, 5]
    (folder / "instances.json").write_text(json.dumps(content))
    again = Review(folder)
    assert again.apply()["images"] == 1 and again.state()["images"][0]["done"]
    assert _labels_of(folder, "0.png")[1][1].corners == (21, 6, 26, 11) == tuple(again.boxes(0)["boxes"][1]["corners"])
    again.decide({"image": 0, "boxes": [_kept("rust", [21, 6, 26, 11], 1)]})
    again.close()
    killed = Review(folder)  # a decision of labels that a person made is not lost
    killed.apply()
    killed.close()
    assert [box.corners for box in _labels_of(folder, "0.png")[1]] == [(21, 6, 26, 11)]


def test_decisions_are_not_those_of_labels_made_anew(folder, client, review):
    post(client, "/decide", image=0, boxes=[])
    review.close()
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["bbox"] = [3, 3, 9, 7]
    (folder / "instances.json").write_text(json.dumps(content))
    again = Review(folder)
    assert again.apply() == {"images": 0} and not again.state()["images"][0]["done"]
    assert len(again.boxes(0)["boxes"]) == 2 and again.undo() == {"image": None}
    again.close()


def test_a_crowd_stays_one(folder):
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["iscrowd"] = content["annotations"][1]["iscrowd"] = 1
    (folder / "instances.json").write_text(json.dumps(content))
    review = Review(folder)
    review.decide({"image": 0, "boxes": [CRACK, _kept("rust", [21, 5, 30, 25], 1)]})
    review.apply()
    review.close()
    assert [box.ignored for box in _labels_of(folder, "0.png")[1]] == [True, True]


def test_a_class_name_that_one_kind_cannot_hold_is_refused_before_the_review(tmp_path):
    folder = _made(tmp_path, ("coco", "voc"))
    file = folder / "instances.json"
    file.write_text(file.read_text().replace('"crack"', '" crack"'))
    with pytest.raises(ConfigError, match="VOC labels: the class name ' crack'"):
        Review(folder)


def test_a_line_that_was_cut_short_is_left_out(folder, client, review):
    post(client, "/decide", image=0, boxes=[CRACK])
    post(client, "/decide", image=1, boxes=[CRACK])
    review.close()
    file = folder / DECISIONS
    file.write_bytes(file.read_bytes()[:-20])
    again = Review(folder)
    assert [image["done"] for image in again.state()["images"]] == [True, False, False]
    again.decide({"image": 2, "boxes": []})
    again.close()
    assert [json.loads(line)["image"] for line in file.read_text().splitlines()] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "a decision has an image and its boxes"),
        ({"image": 9, "boxes": []}, "there are 3"),
        ({"image": -1, "boxes": []}, "there are 3"),
        ({"image": 0, "boxes": [3]}, "class 'None': there are crack, rust"),
        ({"image": 0, "boxes": [_kept("star", [1, 1, 2, 2], None)]}, "class 'star'"),
        ({"image": 0, "boxes": [_kept("rust", [1, 1, 1, 2], None)]}, "an area inside its image"),
        ({"image": 0, "boxes": [_kept("rust", [50, 1, 60, 2], None)]}, "an area inside its image"),
        ({"image": 0, "boxes": [_kept("rust", [1, 1, 2], None)]}, "four corners"),
        ({"image": 0, "boxes": [_kept("rust", [1, 1, 2, True], None)]}, "four corners"),
        ({"image": 0, "boxes": [_kept("rust", [1, 1, 2, 2], 7)]}, "box 7: there are 2"),
    ],
)
def test_what_is_no_decision_is_one_line_and_nothing_is_written(folder, client, body, told):
    answer = post(client, "/decide", **body)
    assert answer.status_code == 400 and told in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert not (folder / DECISIONS).exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"image": "0.png"}',
        '{"image": "0.png", "boxes": [{"name": "crack", "corners": [0, 0, 1e999, 2], "outline": null}]}',
        '{"image": "0.png", "boxes": [{"name": "crack", "corners": [0, 0, 1, 2], "outline": [[1, 2]]}]}',
        '{"image": 3}',
        "nothing",
    ],
)
def test_a_file_of_other_decisions_is_refused_and_free_again(folder, line):
    (folder / DECISIONS).write_text(line + "\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"review\.jsonl"):
            Review(folder)


def test_two_pages_cannot_review_one_folder(folder, review):
    with pytest.raises(ConfigError, match="another page is writing"):
        Review(folder)


def test_what_is_no_folder_of_a_models_labels_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="holds no labels; write some"):
        read_labels(tmp_path / "nothing")
    content = json.loads((folder / "instances.json").read_text())
    for entry in (*content["images"], *content["annotations"]):
        del entry["source"]
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="do not say who made them"):
        read_labels(folder)
    (folder / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png is not in images/"):
        read_labels(folder)


def test_the_page_names_nothing_outside(client):
    parts = [client.get(path).text for path in ("/", "/page.js", "/page.css")]
    assert not any("//" in text.replace("// ", "") for text in parts)
