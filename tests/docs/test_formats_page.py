"""docs/formats.md: the file of every reader is read by the command below it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.registry.build import load_domain

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([\w/.-]+)`:\n\n```(\w+)\n(.*?)```", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"[\w/-]+\.png")
COMMAND = re.compile(r"[Rr]ead by `vladapt (fit|pretrain)([^`]*)`", re.DOTALL)
READ = [(verb, shlex.split(words)) for verb, words in COMMAND.findall(PAGE)]


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)


def film(path: Path) -> None:
    """Five frames at 10 per second."""
    av = pytest.importorskip("av", reason="extra video is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(0, 250, 50):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def written(tmp_path, monkeypatch):
    """All files of the page, with the images that they name: beside them, or where VOC has them."""
    for name, _, text in FILE.findall(PAGE):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        place = file.parent.parent / "JPEGImages" if file.suffix == ".xml" else file.parent
        for seed, picture in enumerate(sorted(set(PICTURE.findall(text)))):
            draw(place / picture, seed)
    for seed, picture in enumerate(PICTURE.findall(re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1])):
        draw(tmp_path / picture, seed)
    monkeypatch.chdir(tmp_path)


def option(words: list[str], name: str, default: str | None = None) -> str | None:
    return words[words.index(name) + 1] if name in words else default


@pytest.mark.parametrize(("verb", "words"), READ, ids=[" ".join(words) for _, words in READ])
def test_the_file_is_read(verb, words, written):
    path = option(words, "--data")
    if verb == "pretrain":
        from vladapt import read_pairs

        assert len(read_pairs(path)) == 2
        return
    domain = load_domain(option(words, "--domain", "natural"))
    if domain.name == "video":
        for name in ("a", "b"):
            film(Path("clips/films") / f"{name}.mp4")
    data = domain.read(path, option(words, "--task", domain.tasks[0]))
    files = [name for name, *_ in FILE.findall(PAGE) if name == path or name.startswith(f"{path}/")]
    assert data.items and not data.skipped and (files or path == "photos")
    assert all(np.asarray(data.load(item)).size for item in data.items)


def test_features_of_the_page_are_read(tmp_path, monkeypatch):
    from vladapt import load_features

    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], {})
    file = load_features("features.npz")
    assert len(file.features) == 60 and len(file.classifier) == 3


def test_the_label_layer_of_the_page_is_read(written):
    pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
    assert pyogrio.read_info("fields.geojson")["features"] == 1


def test_every_file_is_read_by_something():
    """But for features and layers, which have tests of their own."""
    asked = {option(words, "--data") for _, words in READ}
    files = {name for name, *_ in FILE.findall(PAGE)} - {"fields.geojson"}
    unread = [name for name in files if not any(name == path or name.startswith(f"{path}/") for path in asked)]
    assert len(asked) >= 11 and unread == []
