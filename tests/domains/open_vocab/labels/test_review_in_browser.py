"""The page of a review in headless Chromium: boxes dragged, drawn, dropped and named, and a server that is killed.

A process and a browser of their own: what the mouse and the keys do is in the page's own script.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="extra labels is not installed")
pytest.importorskip("pycocotools", reason="extra open-vocab is not installed")
from browser import INSTALLED, PATIENCE, Browser, until

if not INSTALLED:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)

from forked import start

from vladapt.core.contracts.items import Item
from vladapt.core.data.crops import Box, ListedImage
from vladapt.domains.open_vocab.labels.label_set import LabelSet
from vladapt.domains.open_vocab.labels.review import DECISIONS
from vladapt.domains.open_vocab.outputs._labels import place_images
from vladapt.domains.open_vocab.outputs.coco import Coco

SERVE = """
import sys
from pathlib import Path
from vladapt.core.runtime.files import write_whole
from vladapt.domains.open_vocab.labels.review import Review
Review(Path(sys.argv[1])).serve(0, False, lambda address: write_whole(Path(sys.argv[2]), address))
"""
SIZE = (120, 80)


@pytest.fixture
def folder(tmp_path):
    """Three images with two boxes each."""
    pictures, listed = {}, []
    (tmp_path / "pool").mkdir()
    for number in range(3):
        name = f"{number}.png"
        Image.fromarray(np.full((SIZE[1], SIZE[0], 3), 60 * number, np.uint8)).save(tmp_path / "pool" / name)
        pictures[name] = Item(id=name, source=tmp_path / "pool" / name)
        boxes = (
            Box("crack", (10.0, 10.0, 40.0, 30.0), made_by=Box.MODEL, score=0.9),
            Box("rust", (70.0, 40.0, 100.0, 70.0), made_by=Box.MODEL, score=0.5),
        )
        listed.append(ListedImage(name, Path(), (), boxes, "", SIZE, made_by=Box.MODEL))
    labels = LabelSet(("crack", "rust"), listed, pictures)
    place_images(labels, tmp_path / "set")
    Coco().write_labels(labels, tmp_path / "set")
    return tmp_path / "set"


def _drag(browser, *points):
    """Press at the first point of the image, and let go at the last."""
    frame = browser.run(
        "(({left, top, width}) => [left, top, width])(document.getElementById('picture').getBoundingClientRect())"
    )
    left, top, by = frame[0], frame[1], frame[2] / SIZE[0]
    moves = [
        {"type": "pointerMove", "x": round(left + x * by), "y": round(top + y * by), "duration": 0} for x, y in points
    ]
    actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
    mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
    browser.ask("POST", "/actions", {"actions": [mouse]})


def _decided(folder):
    lines = (folder / DECISIONS).read_text().splitlines() if (folder / DECISIONS).exists() else []
    return [json.loads(line) for line in lines]


def test_boxes_are_corrected_drawn_dropped_and_named_and_a_kill_loses_none(folder, tmp_path):
    processes = []

    def serve():
        told = tmp_path / "address"
        told.unlink(missing_ok=True)
        processes.append(start(["-c", SERVE, folder, told], cwd=tmp_path))
        until(lambda: told.read_text().startswith("http"))
        return told.read_text()

    browser = Browser(tmp_path / "profile")
    try:
        browser.open(serve())
        until(lambda: "box 1 of 2: crack" in browser.text("box"))
        _drag(browser, (40, 30), (45, 40), (50, 35))  # the lower right corner
        _drag(browser, (85, 55), (90, 58))  # the other box as a whole
        browser.type("1")
        until(lambda: "box 2 of 2: crack" in browser.text("box") and "(changed)" in browser.text("progress"))
        browser.type("n")
        until(lambda: "Enter keeps them" in browser.text("message"))
        browser.type("\ue007")
        until(lambda: "Image 2 of 3, 1 done" in browser.text("progress"))
        first = _decided(folder)[0]
        assert [entry["name"] for entry in first["boxes"]] == ["crack", "crack"] and first["corrected"] == 2
        assert np.allclose(first["boxes"][0]["corners"], [10, 10, 50, 35], atol=0.5)
        assert np.allclose(first["boxes"][1]["corners"], [75, 43, 105, 73], atol=0.5)
        processes[-1].kill()
        processes[-1].wait(PATIENCE)
        browser.type("\ue007")
        until(lambda: "The server has stopped" in browser.text("message"))
        assert len(_decided(folder)) == 1

        address = serve()
        browser.open(address)
        until(lambda: "Image 2 of 3, 1 done" in browser.text("progress"))
        browser.type("d", "d")
        _drag(browser, (20, 20), (30, 50), (60, 60))  # a new one on the ground
        browser.type("2", "\ue007")
        until(lambda: "Image 3 of 3, 2 done" in browser.text("progress"))
        second = _decided(folder)[1]
        assert second["dropped"] == 2 and second["added"] == 1 and second["boxes"][0]["name"] == "rust"
        assert np.allclose(second["boxes"][0]["corners"], [20, 20, 60, 60], atol=0.5)
        browser.type("\ue003")  # undone, and accepted as it was
        until(lambda: "Image 2 of 3, 1 done" in browser.text("progress"))
        browser.type("\ue007")
        until(lambda: "Image 3 of 3, 2 done" in browser.text("progress"))
        browser.type("\ue007")
        until(lambda: "3 done. All images are reviewed" in browser.text("progress"))
        assert [row.get("accepted") for row in _decided(folder)[2:]] == [None, 2, 2]
        loaded = browser.run('performance.getEntriesByType("resource").map((each) => new URL(each.name).host)')
        assert set(loaded) == {address.split("/")[2]}
    finally:
        browser.quit()
        for process in processes:
            process.kill()


PRESSED = "{}.forEach((repeat) => document.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', repeat}})))"
HELD, TWICE = PRESSED.format("[false, true, true]"), PRESSED.format("[false, false]")


def test_an_image_is_accepted_only_where_its_boxes_are_seen(folder, tmp_path):
    """Enter held down, pressed while the next image loads, or pressed beside a picture that cannot be loaded."""
    told, processes = tmp_path / "address", []
    browser = Browser(tmp_path / "profile")
    try:
        processes.append(start(["-c", SERVE, folder, told], cwd=tmp_path))
        until(lambda: told.exists() and told.read_text().startswith("http"))
        (folder / "images" / "1.png").unlink()
        browser.open(told.read_text())
        until(lambda: "box 1 of 2: crack" in browser.text("box"))
        browser.run(HELD)
        until(lambda: "1.png cannot be shown" in browser.text("message"))
        assert "0.png" in browser.text("box") and [row["image"] for row in _decided(folder)] == ["0.png"]
        browser.run(TWICE)  # still image 0, accepted again: not the boxes of 0 for 1
        until(lambda: "2.png, box 1 of 2" in browser.text("box"))
        assert [row["image"] for row in _decided(folder)] == ["0.png", "0.png"]
        browser.type("p")
        until(lambda: "0.png, box 1 of 2" in browser.text("box"))
    finally:
        browser.quit()
        for process in processes:
            process.kill()
