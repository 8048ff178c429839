"""A gallery of people: indexed, searched for a camera and a time, captioned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

faiss = pytest.importorskip("faiss", reason="extra retrieval is not installed")

NAMES = ("0002_c1s1_000451_03", "0002_c2s1_000500_03", "0007_c2s1_000001_01", "-1_c1s1_000002_00")


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_a_gallery_is_searched_for_a_camera_and_a_time(vladapt, gallery, small_clip_spec):
    made = vladapt("index", gallery, "--domain", "person", "--backbone", small_clip_spec, "--out", "p.index", "--json")
    assert made.code == 0, made.err
    assert made.json["entries"] == 3  # junk is none
    found = vladapt("search", "p.index", "--text", "red", "--camera", 2, "--since", 100, "--json").json
    assert [(hit["about"]["camera"], hit["about"]["identity"]) for hit in found["hits"]] == [("2", "2")]
    assert found["query"]["where"] == {"camera": "2"} and found["query"]["since"] == "100"
    asked = ("--image", gallery / f"{NAMES[0]}.png", "--cluster", -0.99, "--html", "p.html", "--blur")
    shown = vladapt("search", "p.index", *asked)
    assert shown.code == 0 and "group" in shown.out and "identity" in shown.out
    assert Path("p.html").read_text().count("data:image/jpeg") == 4
    assert (
        vladapt("search", "p.index", "red", "--where", "identity=7", "--json").json["hits"][0]["about"]["time"] == "1"
    )
    for arguments, said, code in (
        (("red", "--camera", "9"), "--camera 9: no image has it", 2),
        (("red", "--where", "camera"), "--where camera: write NAME=VALUE", 2),
        (("red", "--where", "camera=1", "--camera", "2"), "given twice", 2),
        (("red", "--where", "owner=me"), "does not hold the owner", 1),
        (("red", "--blur"), "give --html too", 2),
        (("red", "--cluster", "2"), "--cluster 2: give a cosine", 2),
        (("red", "--text", "blue"), "given twice", 2),
    ):
        refused = vladapt("search", "p.index", *arguments)
        assert (refused.code, said in refused.error) == (code, True), refused.error


def test_captions_are_written_and_counted(vladapt, gallery, small_clip_spec):
    options = ("--backbone", small_clip_spec, "--min-confidence", 0, "--html", "c.html", "--shown", 1)
    made = vladapt("curate", "person-captions", gallery, "--out", "people/c.jsonl", *options)
    assert made.code == 0, made.err
    assert "(3 pictures, 6 sentences)" in made.out and not any(name in made.out for name in NAMES)
    assert Path("c.html").read_text().count("data:image/jpeg") == 1
    rows = [json.loads(line) for line in Path("people/c.jsonl").read_text().splitlines()]
    assert {row["identity"] for row in rows} == {"2", "7"}
    Path("people/c.jsonl").write_text(json.dumps({**rows[0], "camera": "door"}) + "\n")  # a list of some of them
    again = vladapt("index", gallery, "--domain", "person", "--backbone", options[1], "--out", "q.index", "--json").json
    assert again["entries"] == 3
    assert len(vladapt("search", "q.index", "red", "--camera", "door", "--json").json["hits"]) == 1
    refused = vladapt("curate", "person-captions", gallery, "--out", "d.jsonl", "--min-confidence", 0.999, *options[:2])
    assert refused.code == 1 and "lower --min-confidence" in refused.error and not Path("d.jsonl").exists()
