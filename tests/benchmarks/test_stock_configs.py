"""benchmarks/stock_configs.py: which packaged configs work here."""

import json
import sys

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from stock_checks.limited import Ending
from stock_configs import main

FOLDER = "mmseg/fastscnn"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its limits are those of Linux")
def test_a_folder_is_tried_and_what_was_found_is_kept(tmp_path, capsys):
    file = tmp_path / "tried.jsonl"
    main([FOLDER, "--out", str(file)])
    shown = capsys.readouterr()
    assert shown.out == "1 of 1 folders work (100.0 %)\n" and "works" in shown.err
    (kept,) = file.read_text().splitlines()
    row = json.loads(kept)
    assert (row["folder"], row["outcome"]) == (FOLDER, "works") and 1e6 < row["parameters"] < 2e6
    assert row["config"] == "fast_scnn_8xb4-160k_cityscapes-512x1024.py"

    file.write_text(json.dumps({**row, "outcome": "fails", "reason": "it was long ago"}) + "\n")
    main([FOLDER, "--out", str(file), "--resume", "--markdown"])
    shown = capsys.readouterr()
    assert shown.err == "" and "**0 of 1 folders work (0.0 %).**" in shown.out
    assert "fails: it was long ago |" in shown.out.strip().splitlines()[-1]


def test_the_limits_are_those_that_are_given(monkeypatch, capsys):
    """What they do to a process is tested beside it."""

    def at_its_limits(function, *args, limits):
        return Ending(over=f"{limits.memory_gib} GiB and {limits.cpu_s} s")

    monkeypatch.setattr("stock_checks.trying.run_limited", at_its_limits)
    main([FOLDER, "--memory", "2.5", "--seconds", "7"])
    shown = capsys.readouterr()
    assert shown.out == "0 of 0 folders work; 1 too large\n"
    assert shown.err.strip().endswith("too large: over 2.5 GiB and 7 s")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["mmseg/fastsc"], "no folder of packaged configs 'mmseg/fastsc'; did you mean mmseg/fastscnn"),
        (["--resume"], "--resume: continues the file of --out; give --out too"),
        (["--out", "there.jsonl"], "--out there.jsonl: already exists; add --resume, or give another"),
        (["--out", "there.jsonl", "--resume"], "there.jsonl: line 1 is no outcome of a config; give another --out"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("nothing of ours\n")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and error in capsys.readouterr().err
