"""What the page draws of masks and boxes, by its own script in Node: a process, since nothing else here runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.export.scripts import maps
from vladapt.core.serving import app

NODE = shutil.which("node")
if NODE is None:
    pytest.skip("Node is not installed", allow_module_level=True)

SHOWN = """
const shown = [], told = [], { gestures } = JSON.parse(require("fs").readFileSync(0));
for (const [from, to, how] of gestures) told.push(addShown(shown, from, to, how));
const all = JSON.parse(JSON.stringify(shown)), lengths = [];
while (shown.length) takeBack(shown) ?? lengths.push(shown.length);
console.log(JSON.stringify({ told, all, lengths }));
"""
KEYED = """
const cursor = { at: null, from: null }, { keys, size } = JSON.parse(require("fs").readFileSync(0));
const told = keys.map((key) => [movedBy(cursor, key, size) ?? null, cursor.at, cursor.from]);
console.log(JSON.stringify({ told, free: movedBy(cursor, { key: "q" }, size) === undefined }));
"""
ASKED = """
const { masks, rows } = JSON.parse(require("fs").readFileSync(0));
const drawn = masks.map(({ mask, size: [height, width] }) => {
  const places = [];
  eachInside(mask, width, height, (place) => places.push(place));
  return places.sort((one, other) => one - other);
});
console.log(JSON.stringify({ drawn, things: rows.map(([row, least]) => thingsOf(row, least)) }));
"""


def drawn(script_of=ASKED, **asked) -> dict:
    script = Path(app.__file__).with_name("page") / "drawing.js"
    command = [NODE, "-e", script.read_text(encoding="utf-8") + script_of]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_masks_are_drawn_at_any_size_and_the_surest_last():
    random, masks, wanted = np.random.default_rng(0), [], []
    for _ in range(30):
        rows, columns, height, width = random.integers(1, 60, 4)
        mask = random.random((rows, columns)) > random.random()
        masks.append({"mask": maps.encoded(mask), "size": [int(height), int(width)]})
        down, across = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in ((height, rows), (width, columns)))
        wanted.append(np.flatnonzero(mask[down][:, across]).tolist())
    boxes = {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "scores": [0.9, 0.2], "labels": ["cat", "dog"]}
    classes = {"shares": {"background": 0.5, "sky": 0.5}, "masks": {"background": 1, "sky": 2}}
    answer = drawn(masks=masks, rows=[[boxes, 0.1], [boxes, 0.5], [classes, 0]])
    assert answer["drawn"] == wanted
    both, sure, maps_of = answer["things"]
    assert [thing["name"] for thing in both] == ["dog", "cat"] and both[1]["box"] == [1, 2, 3, 4]
    assert [thing["name"] for thing in sure] == ["cat"] and maps_of == [{"name": "sky", "mask": 2}]


def test_a_drag_is_a_box_and_clicks_are_points_of_the_latest_thing():
    crack = {"name": "crack", "meant": True, "points": True, "another": False}
    gestures = [
        [[9, 8], [1, 2], crack],
        [[4, 4], None, crack],
        [[5, 5], None, {**crack, "meant": False}],
        [[6, 6], None, {**crack, "another": True}],
        [[7, 7], None, {**crack, "name": "rust"}],
    ]
    answer = drawn(SHOWN, gestures=gestures)
    assert answer["all"] == [
        {"box": [1, 2, 9, 8], "name": "crack", "points": [[4, 4], [5, 5]], "labels": [1, 0]},
        {"name": "crack", "points": [[6, 6]], "labels": [1]},
        {"name": "rust", "points": [[7, 7]], "labels": [1]},
    ]
    assert answer["lengths"] == [2, 1, 1, 1, 0], "points go one by one, and then their box"


def test_a_model_that_takes_examples_is_shown_boxes_alone():
    how = {"name": "crack", "points": False, "another": False}
    gestures = [[[1, 1], None, {**how, "meant": True}], [[1, 2], [9, 8], {**how, "meant": False}]]
    answer = drawn(SHOWN, gestures=gestures)
    assert answer["told"] == [False, True]
    assert answer["all"] == [{"box": [1, 2, 9, 8], "name": "crack", "positive": False}]


def test_keys_move_a_cursor_that_shows_points_and_boxes():
    def key(name, **held):
        return {"key": name, **held}

    keys = [
        *(key("ArrowRight"), key("ArrowDown", shiftKey=True), key("Enter")),
        *(key("b"), key("Enter"), key("ArrowLeft"), key("ArrowUp"), key("B", shiftKey=True)),
        *(key("b"), key("Escape"), key("q"), key("ArrowRight", ctrlKey=True)),
        *(key("ArrowUp") for _ in range(20)),
    ]
    answer = drawn(KEYED, keys=keys, size=[200, 100])
    said, places, begun = zip(*answer["told"])
    assert places[0] == [104, 50] and places[1] == [104, 51], "2 % of the longer side, or a pixel"
    assert said[2] == [[104, 51], None]
    assert begun[3] == begun[4] == [104, 51] and said[4] is None, "a box without area does not end"
    assert said[7] == [[104, 51], [100, 47]] and begun[7] is None
    assert begun[8] and not begun[9] and not any(said[8:]), "given up"
    assert places[11] == places[10] == [100, 47] and answer["free"], "keys of the browser stay its own"
    assert places[-1] == [100, 0], "inside the picture"
