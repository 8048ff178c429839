"""`vladapt check stock-configs`: which packaged configs work here."""

import json
import sys

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.stock.limited import Ending

FOLDER = "mmseg/fastscnn"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its limits are those of Linux")
def test_a_folder_is_tried_and_what_was_found_is_kept(vladapt, tmp_path):
    first = vladapt("check", "stock-configs", FOLDER, "--out", "tried.jsonl", "--json")
    (row,) = first.json["folders"]
    assert first.code == 0 and first.json["summary"] == "1 of 1 folders work (100.0 %)"
    assert (row["folder"], row["outcome"], row["config"]) == (
        FOLDER,
        "works",
        "fast_scnn_8xb4-160k_cityscapes-512x1024.py",
    )
    assert 1e6 < row["parameters"] < 2e6 and "works" in first.err
    (kept,) = (tmp_path / "tried.jsonl").read_text().splitlines()
    assert json.loads(kept) == row

    (tmp_path / "tried.jsonl").write_text(json.dumps({**row, "outcome": "fails", "reason": "it was long ago"}) + "\n")
    again = vladapt("check", "stock-configs", FOLDER, "--out", "tried.jsonl", "--resume", "--markdown")
    assert again.err == "" and "**0 of 1 folders work (0.0 %).**" in again.out
    assert "fails: it was long ago |" in again.out.strip().splitlines()[-1]


def test_the_limits_are_those_that_are_given(vladapt, monkeypatch):
    """What they do to a process is tested beside it."""

    def at_its_limits(function, *args, limits):
        return Ending(over=f"{limits.memory_gib} GiB and {limits.cpu_s} s")

    monkeypatch.setattr("vladapt.domains.open_vocab.stock.trying.run_limited", at_its_limits)
    ended = vladapt("check", "stock-configs", FOLDER, "--memory", 2.5, "--seconds", 7)
    assert ended.out == "0 of 0 folders work; 1 too large\n"
    assert ended.err.strip().endswith("too large: over 2.5 GiB and 7 s")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["mmseg/fastsc"], "no folder of packaged configs 'mmseg/fastsc'; did you mean mmseg/fastscnn"),
        (["--resume"], "--resume: continues the file of --out; give --out too"),
        (["--out", "there.jsonl"], "--out there.jsonl: already exists; add --resume, or give another"),
        (["--out", "there.jsonl", "--resume"], "there.jsonl: line 1 is no outcome of a config; give another --out"),
    ],
)
def test_a_mistake_is_one_line(vladapt, tmp_path, arguments, error):
    (tmp_path / "there.jsonl").write_text("nothing of ours\n")
    ended = vladapt("check", "stock-configs", *arguments)
    assert ended.code > 0 and error in ended.error
