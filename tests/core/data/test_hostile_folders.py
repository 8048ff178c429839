"""One bad entry stops nothing else: links in circles, pipes, names of odd bytes, what cannot be listed or is gone."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data import files
from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.files import ItemCollector, locate, walk
from vladapt.core.data.images import IMAGE
from vladapt.core.data.manifests import read_manifest
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.unlabelled import read_unlabelled
from vladapt.core.errors import DataError

ODD = b"caf\xe9.png"
needs_odd_names = pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take text names only")


def put(path: Path | bytes, seed: int = 0) -> None:
    Path(os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, three images each."""
    for n in range(6):
        put(tmp_path / "data" / "ab"[n % 2] / f"{n}.png", n)
    return tmp_path / "data"


def test_entries_that_are_no_files_are_listed_and_the_rest_is_read(folder, monkeypatch):
    a = folder / "a"
    (a / "circle").symlink_to("circle")
    (a / "circle.png").symlink_to("circle.png")
    (a / "up").symlink_to("..")
    (a / "gone.png").symlink_to("nowhere.png")
    (a / "zero.png").symlink_to("/dev/zero")
    (folder / "self").symlink_to(".")
    os.mkfifo(a / "pipe.png")
    os.mkfifo(a / "pipe")
    monkeypatch.chdir(a)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
        data = read_class_folders(folder)
    assert data.class_names == ("a", "b") and len(data.items) == 6
    reasons = dict(data.skipped)
    assert set(reasons) == {
        f"a/{name}" for name in ("circle", "circle.png", "up", "gone.png", "zero.png", "pipe.png", "pipe", "socket.png")
    } | {"self"}
    assert reasons["a/pipe.png"] == "a pipe, not a file" and reasons["a/socket.png"] == "a socket, not a file"
    assert "symbolic links" in reasons["a/circle.png"] and "No such file" in reasons["a/gone.png"]
    assert (
        "leaves the data folder" in reasons["a/zero.png"]
        and reasons["self"] == "a link to a folder above it, not followed"
    )


@needs_odd_names
def test_names_of_odd_bytes_are_read_and_shown_as_escapes(folder):
    put(os.fsencode(folder / "a") + b"/" + ODD, 7)
    put(folder / "a" / "e\x1b[31m\n.png", 8)
    put(os.fsencode(folder) + b"/\xfc/1.png", 9)
    data = read_class_folders(folder)
    assert data.class_names == ("a", "b", r"\xfc")
    ids = [item.id for item in data.items]
    assert {r"a/caf\xe9.png", r"a/e\x1b[31m\n.png", r"\xfc/1.png"} < set(ids)
    assert all(data.load(item).shape == (8, 8, 3) for item in data.items)


@needs_odd_names
def test_unlabelled_images_and_pairs_of_odd_names_are_read(tmp_path):
    odd = os.fsencode(tmp_path) + b"/" + ODD
    put(odd)
    Path(os.fsdecode(odd)).with_suffix(".txt").write_text("a caption")
    data = read_unlabelled([tmp_path])
    assert data.items[0].id.endswith(r"/caf\xe9.png") and data.load(data.items[0]).shape == (8, 8, 3)
    pairs = read_pairs(tmp_path, val=0, test=0)
    assert pairs.id(0) == r"caf\xe9.png" and pairs.load_image(0).shape == (8, 8, 3)


def test_what_is_left_out_below_a_folder_is_named_with_the_folder(folder):
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "note.txt").write_text("no image")
    data = read_unlabelled([folder / "a", folder / "note.txt", folder / "b" / "1.png"])
    assert len(data.items) == 4
    assert [name for name, _ in data.skipped] == [f"{folder}/a/pipe.png", f"{folder}/note.txt"]


def test_a_folder_that_cannot_be_listed_is_skipped(folder, monkeypatch):
    for n in range(2):
        put(folder / "closed" / f"{n}.png", 20 + n)
    put(folder / "a" / "inner" / "9.png", 30)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name in ("closed", "inner"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    data = read_class_folders(folder)
    assert data.class_names == ("a", "b") and len(data.items) == 6
    assert {name: "Permission denied" in reason for name, reason in data.skipped} == {"closed": True, "a/inner": True}


def test_a_file_that_may_not_be_read_is_skipped(folder, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path).name != "0.png")
    data = read_class_folders(folder)
    assert len(data.items) == 5 and data.skipped == [("a/0.png", "cannot be read (Permission denied)")]


def test_an_entry_that_is_gone_meanwhile_is_skipped(folder, monkeypatch):
    listed = list(walk(folder, folder, ItemCollector()))
    listed[0].unlink()
    collector = ItemCollector()
    for file in listed:
        collector.add_file(file, file.name, (IMAGE,))
    assert len(collector.items) == 5 and collector.skipped == [("0.png", "cannot be read (No such file or directory)")]


def test_folders_in_folders_without_end_are_walked(tmp_path):
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):  # deeper than Python recurses, and than a path may be long
        os.mkdir("n", dir_fd=place)
        inner = os.open("n", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    put(tmp_path / "z.png")
    try:
        data = read_unlabelled([tmp_path])
        assert len(data.items) == 1 and len(data.skipped) == 1 and "cannot be" in data.skipped[0][1]
        assert len(data.skipped[0][1]) < 600
    finally:
        os.system(f"rm -rf '{tmp_path}/n'")  # rmtree recurses


@pytest.mark.parametrize("name", ["circle/x.png", "nul\0.png", "l" * 5000 + ".png", "circle"])
def test_a_listed_path_that_leads_nowhere_is_missing_or_one_line(tmp_path, name):
    (tmp_path / "circle").symlink_to("circle")
    try:
        assert locate(name, [tmp_path], "labels.csv line 2") is None
    except DataError as error:
        assert str(error).startswith("labels.csv line 2: ") and len(str(error)) < 250


def test_a_table_that_lists_pipes_and_devices_skips_them(folder):
    os.mkfifo(folder / "pipe.png")
    rows = ["a/0.png,x", "b/1.png,y", "a/2.png,x", "pipe.png,x"]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]))
    data = read_manifest(folder / "labels.csv")
    assert len(data.items) == 3 and data.skipped[0][0] == "pipe.png"
