"""`vladapt bench`: backbones on sets, on the command line."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def captions(tmp_path):
    """A retrieval set of 12 images in CLIP_benchmark's layout."""
    folder = tmp_path / "sets" / "wds_captions"
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w") as archive:
        for number in range(12):
            image = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, "PNG")
            for ending, content in (("png", image.getvalue()), ("txt", f"thing {number}\nno {number}".encode())):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder


def test_two_backbones_are_compared_on_the_same_images(vladapt, captions, small_clip_spec, write_clip, tmp_path):
    other = write_clip(width=16)
    outcome = vladapt("bench", small_clip_spec, other, "--data", captions.parent, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    rows, gains = outcome.json["rows"], outcome.json["gains"]
    assert {row["backbone"] for row in rows} == {small_clip_spec, other} and {row["set"] for row in rows} == {
        "wds_captions"
    }
    of = {(row["measure"], row["backbone"]): row["value"] for row in rows}
    for gain in gains:
        difference = of[gain["measure"], other] - of[gain["measure"], small_clip_spec]
        assert gain["difference"] == pytest.approx(difference) and gain["low"] <= gain["difference"] <= gain["high"]
    lines = (tmp_path / "out" / "bench.csv").read_text().splitlines()
    assert lines[0].startswith("set,part,measure,backbone,value,low,high") and len(lines) == 1 + len(rows) == 13


def test_the_table_has_guessing_and_intervals(vladapt, captions, small_clip_spec):
    outcome = vladapt("bench", small_clip_spec, "--data", captions, "--markdown")
    assert outcome.code == 0, outcome.err
    header, _, first, *_ = outcome.out.splitlines()
    assert "guessing" in header and "published" not in header and "part" not in header
    assert "| wds_captions | image_to_text/r1 | 12 | 8.3 |" in first and "[" in first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "--data nowhere: no such file or folder"),
        ([], "--data: none given"),
        (["--data", "DATA", "--set", "clip-benchmark.ties=no"], "benchmark 'clip-benchmark' has no option 'ties'"),
        (["--data", "DATA", "--set", "labelled.x=1"], "benchmark 'labelled' has no option 'x'"),
        (
            ["--data", "DATA", "--set", "winogrund.ties=wrong"],
            "'winogrund' is no kind of set and no key of a recipe; did",
        ),
        (["--data", "DATA", "--set", "shots=4"], "bench does not use it"),
        (["--data", "DATA", "--language", "de"], "--language de: these sets bring their own classes and texts; omit"),
    ],
)
def test_what_is_wrong_is_one_line(vladapt, captions, small_clip_spec, arguments, said):
    outcome = vladapt("bench", small_clip_spec, *[captions if each == "DATA" else each for each in arguments])
    assert outcome.code != 0 and said in outcome.error


def test_a_set_that_fails_leaves_the_others(vladapt, captions, small_clip_spec, monkeypatch):
    import shutil

    from vladapt.core.bench.sets.clip_benchmark import ClipBenchmark
    from vladapt.core.errors import DataError

    shutil.copytree(captions, captions.parent / "wds_another")
    scored = ClipBenchmark.score

    def score(self, towers):
        if self.title == "wds_another":
            raise DataError("the disk is gone")
        return scored(self, towers)

    monkeypatch.setattr(ClipBenchmark, "score", score)
    outcome = vladapt("bench", small_clip_spec, "--data", captions.parent)
    assert outcome.code == 1 and "Failed: wds_another: the disk is gone" in outcome.out
    ways = ("image_to_text", "text_to_image")  # no name is cut in a narrow terminal
    assert all(f"wds_captions │ {way}/r{k} " in outcome.out for way in ways for k in (1, 5, 10))


def test_kinds_of_sets_are_listed_and_shown(vladapt):
    assert "clip-benchmark" in vladapt("list", "benchmarks").out
    assert "arXiv 2212.07143" in vladapt("show", "benchmark", "clip-benchmark").out
