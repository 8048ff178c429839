"""benchmarks/video.py on tiny sets of the public ones' form."""

import importlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.backbones.preprocessing import Preprocess

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
    from video_writing import write_video

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


def test_unseen_pairs_are_learned_from_in_other_company(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    heads = importlib.import_module("video_heads")
    monkeypatch.setattr(heads, "UNSEEN_CLIPS", {"train": 1, "test": 1})
    monkeypatch.setattr(heads, "encode", lambda backbone, pixels: pixels.mean(dim=(2, 3)))
    backbone = SimpleNamespace(
        fingerprint="colours", preprocess=lambda train: Preprocess(8, (0.0,) * 3, (1.0,) * 3), joint=None
    )
    given = SimpleNamespace(store=tmp_path / "colours.safetensors")
    seen, new = (heads.of_pairs(given, backbone, split) for split in ("train", "test"))
    assert (len(seen.class_names), len(new.class_names), seen.parts.shape) == (24, 8, (24, 8, 3))
    assert not set(seen.class_names) & set(new.class_names)
    for place in (1, 2):  # shapes, then motions
        parts = [{name.split(" ", 2)[place] for name in some.class_names} for some in (seen, new)]
        assert parts[0] == parts[1], "both are known from other pairs"
    assert torch.equal(new.parts[0], new.parts[1].flip(0)) and new.class_names[:2] == (
        "a disc moving left",
        "a disc moving right",
    )


def test_captions_to_clips_asks_what_only_the_order_or_one_frame_tells(monkeypatch, small_clip, capsys):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = importlib.import_module("captions_to_clips")
    monkeypatch.setattr(script, "COUNTS", (12, 8))
    monkeypatch.setattr(script, "NOISE", 1e-3)
    learned, test = script.deciding(small_clip)
    unlike = (test.parts - test.parts.median(dim=1, keepdim=True).values).norm(dim=-1)  # (8 clips, 8 frames)
    assert ((unlike > 0.1).sum(dim=1) == 1).all()
    frames = torch.randn(4, 8, 24, generator=torch.Generator().manual_seed(0))
    objects = [("red", "disc"), ("blue", "star"), ("red", "star"), ("blue", "disc")] * 2
    moves = ["moving left"] * 4 + ["moving right"] * 4
    sentences = [f"a {colour} {shape} is {motion}" for (colour, shape), motion in zip(objects, moves)]
    moving = script.Captioned(torch.cat([frames, frames.flip(1)]), sentences, objects, moves)
    rows = {}
    for name in ("mean-pool:epochs=2", "clip4clip:epochs=60,layers=1,lr=0.01"):
        adapter = script.head(name)
        adapter.fit_pairs(moving, small_clip, features=moving.features, seed=1)
        rows[name[:4]] = script.answered(adapter, small_clip, moving)
    assert rows["mean"]["order"].tolist() == [0.5] * 4 and rows["clip"]["order"].mean() > 0.5
    assert len(rows["mean"]["object"]) == 4
    assert [script.beyond(torch.tensor(rows)) for rows in ([0.1, 0.2], [-0.1, -0.2], [-0.1, 0.2])] == ["+", "-", ""]
    sets = [(moving, (moving,)), (learned, (test,))]
    heads = {name: partial(script.head, name) for name in ("mean-pool:epochs=1", "mug:epochs=1")}
    script.print_table(small_clip, sets, heads, seeds=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| head | order | object | one frame | CPU seconds to fit |" and len(lines) == 4
    assert lines[2].startswith("| `mean-pool:epochs=1` | 50.0% |") and lines[3].startswith("| `mug:epochs=1` | 50.0% |")


def test_captions_to_towers_trains_all_rows_from_towers_that_know_frames(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    script = importlib.import_module("captions_to_towers")
    for name, value in {"LEARNED": (2, 2), "TESTED": (2, 4), "SINGLE": 2, "EPOCHS": 1, "BATCH": 4}.items():
        monkeypatch.setattr(script, name, value)
    start = script.small_towers()
    moved, moment = script.clips_of(start, 0, 2, 3)
    assert torch.equal(moved.parts[:4], moved.parts[4:].flip(1)) and moved.shows[:4] == moved.shows[4:]
    assert moved.sentences[0].endswith("is moving left") and moved.sentences[4].endswith("is moving right")
    assert moment.sentences[0].endswith("for a moment") and len(script.together((moved, moment))) == 11
    frames, drawn = script.for_a_moment(1, 5), script.draw_clip(2, 5, script.FRAMES)
    assert (frames == drawn).all(axis=(1, 2, 3)).sum() == 1, "one frame is no noise"
    store = tmp_path / "towers.safetensors"
    towers = script.that_know_frames(start, store)
    assert store.is_file() and towers.fingerprint != start.fingerprint
    monkeypatch.setattr(
        sys, "argv", ["captions_to_towers", "mean-pool", "mug-stan", "--store", str(store), "--seeds", "1"]
    )
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| `mean-pool` | 50.0% |") and lines[3].startswith("| `mug-stan` | ") and len(lines) == 4
    released = script.rows()["mug-stan"]()
    assert (released.towers, released.mode, released.tower_options["clip_grad"]) == ("stan", "simple", 5.0)
