"""The page in headless Chromium: pictures that are chosen and dropped show their labels; nothing outside is asked."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace

import pytest

pytest.importorskip("uvicorn", reason="extra serve is not installed")
pytest.importorskip("multipart", reason="extra serve is not installed")
from browser import INSTALLED, Browser, until

if not INSTALLED:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)

import uvicorn

from vladapt.core.contracts.serving import Serving
from vladapt.core.serving.app import NO_TOKEN, Access, build_app
from vladapt.core.serving.desk import Desk
from vladapt.core.serving.exported import ServedExport
from vladapt.core.serving.server import listening
from vladapt.core.serving.uploads import Limits

TOKEN = "token-of-the-test"
DROP = """(() => {
  const bytes = Uint8Array.from(atob("PICTURE"), (each) => each.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  data.items.add(new File(["abc"], "torn.png", { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
})()"""


class WithExamples(ServedExport):
    """An export that names a nearest example, as runs do."""

    def __init__(self, *how):
        super().__init__(*how)
        self.facts = replace(self.facts, labelled=1)

    def check(self, wishes):
        assert wishes.nearest == 1

    def rows(self, samples, skipped, wishes):
        told = super().rows(samples, skipped, wishes)
        for row in told["predictions"]:
            row["explanation"] = {"examples": [{"id": "train/7.png", "labels": ["blue"], "similarity": 0.875}]}
        return told


@pytest.fixture(scope="module")
def address(export, tmp_path_factory):
    desk = Desk(WithExamples(export, Serving(threads=1)), 4, Limits(), tmp_path_factory.mktemp("uploads"), 1, print)
    made = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk, Access(TOKEN)), log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [made]})
    thread.start()
    yield f"http://127.0.0.1:{made.getsockname()[1]}/"
    server.should_exit = True
    thread.join(60)


def test_pictures_show_what_is_said_of_them(address, picture, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"{address}?token={TOKEN}")
        until(lambda: browser.text("about").startswith("gda, 3 classes, one label per image."))
        (tmp_path / "chosen.png").write_bytes(picture("blue"))
        browser.choose("files", tmp_path / "chosen.png")
        until(lambda: browser.run('document.querySelector(".label")?.textContent') == "blue")
        card = browser.run('document.querySelector("#answers li").innerText')
        assert "chosen.png" in card and "Set: blue" in card and "Unlike" not in card
        assert "blue (train/7.png, similarity 0.88)" in card
        assert browser.run('document.querySelector("#answers img").naturalWidth') == 24

        browser.run(DROP.replace("PICTURE", base64.b64encode(picture("red")).decode()))
        until(lambda: browser.run('document.querySelectorAll(".label").length') == 2)
        until(lambda: "torn.png: not an image" in browser.run('document.querySelector(".error")?.textContent ?? ""'))
        assert "dropped.png" in browser.text("answers")
        loaded = browser.run('performance.getEntriesByType("resource").map((each) => new URL(each.name).host)')
        assert set(loaded) - {""} == {address.split("/")[2]}

        browser.open(address)
        assert NO_TOKEN in browser.run("document.body.textContent")
    finally:
        browser.quit()
