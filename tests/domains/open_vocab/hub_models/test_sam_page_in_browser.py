"""The page of a server of a SAM in headless Chromium, by keys alone: a point, a box, and what is taken back."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("transformers", reason="extra detectors is not installed")
pytest.importorskip("uvicorn", reason="extra serve is not installed")
pytest.importorskip("multipart", reason="extra serve is not installed")
from browser import INSTALLED, Browser, until

if not INSTALLED:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)

import uvicorn

from vladapt.core.contracts.serving import Serving
from vladapt.core.engine.serve import load_served
from vladapt.core.serving.app import Access, build_app
from vladapt.core.serving.desk import Desk
from vladapt.core.serving.server import listening
from vladapt.core.serving.uploads import Limits

from .tiny_sam import saved, tiny_sam

TOKEN = "token-of-the-test"
RIGHT, DOWN, LEFT, ENTER = "\ue014", "\ue015", "\ue012", "\ue007"
ASKED = """performance.getEntriesByType("resource").map((each) => new URL(each.name))
  .filter((each) => each.pathname === "/predict").map((each) => JSON.parse(each.searchParams.get("prompts") ?? "[]"))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    model = load_served(saved(tmp_path_factory.mktemp("sam"), *tiny_sam()), Serving(device="cpu"))
    desk = Desk(model, 4, Limits(), tmp_path_factory.mktemp("uploads"), 1, print)
    made = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk, Access(TOKEN)), log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [made]})
    thread.start()
    yield f"http://127.0.0.1:{made.getsockname()[1]}/?token={TOKEN}"
    server.should_exit = True
    thread.join(60)


def test_a_point_and_a_box_are_shown_by_keys(address, tmp_path):
    Image.fromarray(np.full((80, 100, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(address)
        until(lambda: "arrows move a cross" in browser.text("showing"))
        browser.choose("files", tmp_path / "wall.png")
        until(lambda: browser.run('document.querySelector("canvas")?.clientWidth ?? 0') > 0)
        for _ in range(20):  # as a user who has no mouse gets there
            if browser.run("document.activeElement.tagName") == "CANVAS":
                break
            browser.type("\ue004")
        browser.type(RIGHT, DOWN, ENTER)
        until(lambda: browser.run(ASKED) == [[{"points": [[52, 42]], "labels": [1]}]])
        until(lambda: "object" in browser.text("answers"))
        assert browser.run("document.activeElement.tagName") == "CANVAS"
        browser.type("b", LEFT, LEFT, DOWN, "b")
        box = {"box": [48, 42, 52, 44]}
        until(lambda: browser.run(ASKED)[1:] == [[{"points": [[52, 42]], "labels": [1]}, box]])
        until(lambda: "2 object" in browser.text("answers"))
        assert "2 object" in browser.run('document.querySelector("canvas").getAttribute("aria-label")')
    finally:
        browser.quit()
