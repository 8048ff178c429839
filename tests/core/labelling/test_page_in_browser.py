"""The page in headless Chromium, by keys alone: 30 images, a server that is killed, and resumed."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="extra labels is not installed")
from browser import INSTALLED, PATIENCE, Browser, until

if not INSTALLED:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)

from forked import start

from vladapt.core.data.label_files import read_answers
from vladapt.core.runtime.local_page import NO_TOKEN, TWO_PAGES

SERVE = """
import sys
from vladapt.core.labelling.options import LabelOptions
from vladapt.core.labelling.serve import serve_labels
from vladapt.core.runtime.files import write_whole
from pathlib import Path
serve_labels(*sys.argv[1:3], LabelOptions(labeller="me"), lambda address, *_: write_whole(Path(sys.argv[3]), address))
"""
BACKSPACE = "\ue003"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.quit()


@pytest.fixture
def serve(tmp_path):
    """serve(list) -> the process that serves the page, and its address."""
    processes = []

    def start_(table):
        told = tmp_path / "address"
        told.unlink(missing_ok=True)
        processes.append(start(["-c", SERVE, table, table.parent / "labels.csv", told], cwd=tmp_path))
        until(lambda: told.read_text().startswith("http"))
        return processes[-1], told.read_text()

    yield start_
    for process in processes:
        process.kill()


def test_thirty_images_by_keys_with_a_kill_between(browser, serve, todo):
    table = todo()
    labels = table.parent / "labels.csv"
    process, address = serve(table)
    browser.open(address)
    until(lambda: "Image 1 of 30, 0 done" in browser.text("progress"))
    browser.type(*"1231231231", "s", "x", "1", BACKSPACE, "2")
    until(lambda: [row.labels for row in read_answers(labels)[0]][12:] == [("dog",)])
    process.kill()
    process.wait(PATIENCE)
    kept = labels.read_bytes()
    browser.type("3")
    until(lambda: "The server has stopped" in browser.text("message"))
    assert labels.read_bytes() == kept and len(read_answers(labels)[0]) == 13

    _, again = serve(table)
    browser.open(again)
    until(lambda: "Image 14 of 30, 13 done" in browser.text("progress"))
    assert browser.text("guess") == ""
    browser.type("g")
    until(lambda: browser.text("guess") == "The model's guess: dog (50 %)")
    browser.type("+", "+")
    until(lambda: "scale(2.25)" in browser.run('document.getElementById("picture").style.transform'))
    assert browser.run('document.getElementById("picture").naturalWidth') == 16
    browser.type(*"12312312312312312")
    until(lambda: "30 done. All images are labelled" in browser.text("progress"))
    rows = read_answers(labels)[0]
    assert [row.id for row in rows] == [f"{number:02d}.png" for number in range(30)]
    said = [(row.labels[0] if row.labels else row.answer) for row in rows]
    cycle = ["cat", "dog", "owl"] * 6
    assert said == [*cycle[:10], "not sure", "none of these", "dog", *cycle[:17]]
    loaded = browser.run('performance.getEntriesByType("resource").map((each) => new URL(each.name).host)')
    assert set(loaded) == {again.split("/")[2]}

    browser.open(again.split("?")[0])
    assert browser.run("document.body.textContent") == NO_TOKEN


def test_a_second_page_says_so(browser, serve, todo):
    _, address = serve(todo(12, classes=tuple(f"kind {number}" for number in range(11))))
    browser.open(address)
    until(lambda: "Image 1 of 12" in browser.text("progress"))
    first = browser.ask("GET", "/window")
    second = browser.ask("POST", "/window/new", {"type": "tab"})["handle"]
    browser.ask("POST", "/window", {"handle": second})
    browser.open(address)
    until(lambda: browser.text("message") == TWO_PAGES)
    browser.ask("POST", "/window", {"handle": first})
    browser.type(*"1107")  # two digits each, of eleven classes
    until(lambda: "2 done" in browser.text("progress"))
    file = next(iter(read_answers(todo().parent / "labels.csv")[:1]))
    assert [row.labels for row in file] == [("kind 10",), ("kind 6",)]
