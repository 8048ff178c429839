"""The example scripts run as they are, and are short."""

from __future__ import annotations

from pathlib import Path

import forked
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ON_SMALL_TOWERS = """
import runpy, sys
import vladapt

_, backbone, *sys.argv = sys.argv
fit = vladapt.fit
vladapt.fit = lambda **given: fit(**given, backbone=backbone)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A script whose fits take the backbone that is named before it; its own one costs twenty times as much."""


def run(name: str, *arguments: str, cwd: Path) -> str:
    return forked.run([EXAMPLES / name, *arguments], cwd=cwd, check=True).stdout


def test_each_is_at_most_forty_lines():
    for script in EXAMPLES.glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 40, script.name


def test_few_shot_folder(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    rng = np.random.default_rng(0)
    stripes = np.kron(np.arange(8) % 2 * 200, np.ones(8))[:, None, None] * np.ones((1, 64, 3))
    for name, pattern in {"striped": stripes, "plain": np.full((64, 64, 3), 100.0)}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(pattern + rng.normal(0, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    out = run("few_shot_folder.py", "data", "data/striped/0.png", cwd=tmp_path)
    assert "adapted 100.0%" in out and "0.png: striped" in out
    assert list(tmp_path.glob("runs/*/report.html"))


def test_few_shot_features(tmp_path):
    lines = run("few_shot_features.py", cwd=tmp_path).splitlines()
    found = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in lines}
    assert set(found) == {"zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t"}
    assert all(found[name] > found["zero-shot"] for name in found if name != "zero-shot")


def test_few_shot_features_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(3, 16)), np.arange(3).repeat(30)
    np.savez(
        tmp_path / "f.npz",
        image_features=centres[labels] + 0.2 * rng.normal(size=(90, 16)),
        labels=labels,
        text_features=centres,
        class_names=np.array(["a", "b", "c"]),
    )
    assert "tip-adapter    100.0%" in run("few_shot_features.py", "f.npz", cwd=tmp_path)


def run_on(backbone: str, name: str, cwd: Path) -> str:
    return forked.run(["-c", ON_SMALL_TOWERS, backbone, EXAMPLES / name], cwd=cwd, check=True).stdout


@pytest.mark.thorough
def test_own_hook(tmp_path, small_clip_spec):
    *told, last = run_on(small_clip_spec, "own_hook.py", tmp_path).splitlines()
    assert 3 <= len(told) < 6, "mmengine's hook ends the training early"
    assert all(line.startswith(f"epoch {n}: gradient norms up to ") for n, line in enumerate(told, start=1))
    assert last.startswith(f"{len(told)} epochs, see runs")
    (scalars,) = tmp_path.glob("runs/*/LocalVisBackend/scalars.json")
    assert scalars.read_text().count("largest_grad_norm") == len(told)


def test_own_domain(tmp_path, small_clip_spec):
    words = run_on(small_clip_spec, "own_domain.py", tmp_path).split()
    zero_shot, adapted = (float(word.rstrip(",%")) for word in words if "%" in word)
    assert adapted > zero_shot + 40


def test_pretrain_pairs(tmp_path, small_clip_spec):
    out = run("pretrain_pairs.py", "sample", "models/first", small_clip_spec, cwd=tmp_path)
    assert "text to image R@5:" in out and " finds " in out
    assert (tmp_path / "models" / "first" / "model.safetensors").is_file()


def test_pairs_from_classes(tmp_path):
    for name in ("bare-land", "forest"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "scenes" / name / "0.png")
    (tmp_path / "classes.json").write_text('[{"class": "forest", "description": "many trees"}]')
    out = run("pairs_from_classes.py", "scenes", "pairs.csv", "a satellite photo of {}", "classes.json", cwd=tmp_path)
    assert "2 images" in out
    rows = (tmp_path / "pairs.csv").read_text().splitlines()
    assert rows[1:] == [
        "bare-land/0.png,a satellite photo of bare land,bare-land",
        "forest/0.png,a satellite photo of forest,forest",
        "forest/0.png,many trees,forest",
    ]


@pytest.mark.thorough
def test_open_vocab_shapes(tmp_path, monkeypatch):
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    pytest.importorskip("efficientnet_lite_pytorch")
    from vladapt.domains.open_vocab import shapes

    monkeypatch.setattr(shapes, "COUNTS", {"train": 12, "val": 2, "test": 6})
    images = sorted((shapes.shapes_folder() / "images").glob("*.png"))[-2:]  # the script finds the small set drawn
    lines = run("open_vocab_shapes.py", "1", *map(str, images), cwd=tmp_path).splitlines()
    assert lines[0].startswith("AP50 of names it was trained on ") and "of new names" in lines[0]
    assert [line.split(":")[0].endswith(image.name) for line, image in zip(lines[2:4], images)] == [True, True]
    assert lines[4] == "3 files in found/" and (tmp_path / "found" / "predictions.json").is_file()


def test_own_stage(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for name, pixels in {"flat": np.full_like(noise, 9), "noise": noise}.items():
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    for _ in range(2):
        assert "2 images in 1 shards, 1 unreadable" in run("own_stage.py", "out", "photos", cwd=tmp_path)
    (file,) = tmp_path.glob("out/*/part-*.parquet")
    rows = {row["id"]: row for row in parquet.read_table(file).to_pylist()}
    assert [row["width"] for row in rows.values()] == [30, 30]
    assert rows["photos/flat.png"]["sharpness"] == 0 < rows["photos/noise.png"]["sharpness"]
