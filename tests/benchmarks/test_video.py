"""benchmarks/video.py on tiny sets of the public ones' form."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="extra video is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def video(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    module = importlib.import_module("video")
    monkeypatch.setattr(module, "DATA", tmp_path)
    monkeypatch.chdir(tmp_path)
    return module


@pytest.fixture
def hmdb51(tmp_path):
    """Two actions of four clips each, the official lists of a split, and a list of two clips per action."""
    from vladapt.domains.video.writing import write_video

    root, rng = tmp_path / "video" / "hmdb51", np.random.default_rng(0)
    (root / "testTrainMulti_7030_splits").mkdir(parents=True)
    shots = []
    for label, action in enumerate(("sit", "wave")):
        lines = []
        for number, mark in enumerate((1, 1, 1, 2)):
            name = f"film{number}_{action}_u_nm_np1_fr_goo_0.avi"
            (root / action).mkdir(exist_ok=True)
            write_video(root / action / name, rng.integers(0, 255, (2, 32, 56, 3), np.uint8), codec="mpeg4")
            lines.append(f"{name} {mark} \n")
            shots += [f"{name} {label}\n"] if number in (0, 2) else []
        for fold in (1, 2, 3):
            (root / "testTrainMulti_7030_splits" / f"{action}_test_split{fold}.txt").write_text("".join(lines))
    (root / "train1_few_shot_2.txt").write_text("".join(shots))


def test_ours_stands_below_what_is_published(video, hmdb51, small_clip_spec, tmp_path, monkeypatch, capsys):
    few, zero = (video.TABLES[name] for name in ("few-shot", "zero-shot"))
    column = few.columns[0]
    assert (column.set, column.shots, zero.columns[0].folds) == ("hmdb51", 2, (1, 2, 3))
    monkeypatch.setitem(video.TABLES, "few-shot", replace(few, columns=(column,)))
    of_two = (replace(zero.columns[0], folds=(1, 2)), *zero.columns[1:])
    monkeypatch.setitem(video.TABLES, "zero-shot", replace(zero, columns=of_two))
    how = ["--backbone", small_clip_spec, "--adapters", "nearest-mean", "--set", "data.frames=1"]
    video.main([*how, "--tables", "few-shot", "zero-shot", "retrieval"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| X-CLIP | ViT-B/16 | 53.00 | 57.30 |") for line in lines)
    assert "| X-CLIP, trained on Kinetics-400 | ViT-B/16 | 44.60 | 72.00 | 65.20 | VideoX README |" in lines
    infos = {path: json.loads((path / "run.json").read_text()) for path in (tmp_path / "runs").iterdir()}
    (learned,) = [path for path, info in infos.items() if info["adapter"] == "nearest-mean"]
    support = sorted(Path(name).name[:5] for name in infos[learned]["splits"]["support"])
    assert support == ["film0", "film0", "film2", "film2"]
    accuracy = json.loads((learned / "metrics.json").read_text())["adapted"]["accuracy"]
    assert f"| ours: nearest-mean | {small_clip_spec} | {100 * accuracy:.2f} | this run |" in lines
    (row,) = [line for line in lines if line.startswith("| ours: zero-shot")]
    assert len(infos) == 3 and row.count("–") == 2 and " ± 0.00 " in row, "the mean over splits"
    assert "msrvtt, didemo, lsmdc, activitynet, msvd: none of them is in" in lines[-1]
