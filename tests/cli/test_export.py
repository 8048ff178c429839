"""`vladapt export`: a run becomes a folder that answers as it does, without vladapt or torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vladapt.core.confidence import Calibration

pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

ALONE = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'vladapt', 'onnx'))); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""A script where these cannot be imported."""
PER = ("all", "class")


@pytest.fixture
def run(fit, colours) -> str:
    made = fit("--data", colours, "--adapter", "tip-adapter", "--shots", "4", "--json")
    assert made.code == 0, made.err
    return made.json["run"]


def test_a_folder_answers_as_the_run(run, vladapt, colours, tmp_path):
    made = vladapt("export", run, "--out", "model", "--json")
    assert made.code == 0, made.err
    assert made.json["files"] == ["export.json", "head.onnx", "model.onnx", "predict.py"]
    facts = json.loads((tmp_path / "model" / "export.json").read_text())
    assert facts == {key: value for key, value in made.json.items() if key not in ("export", "files")}
    assert set(facts["checks"]) == {"features", "pixels", "files"}
    assert all(check["of_logit_range"] < 1e-3 and check["same_answers"] == 1 for check in facts["checks"].values())
    assert facts["licences"]["data"] == "unknown" and facts["opset"] == 18
    images = sorted(colours.rglob("*.png"))[:3]
    for per in PER:
        asked = ("--coverage", "0.8", "--coverage-per", per)
        wanted = vladapt("predict", run, *images, *asked, "--json").json["predictions"]
        command = [sys.executable, "-c", ALONE, tmp_path / "model" / "predict.py", *images, *asked]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(row["label"], row["set"]) for row in found] == [(row["label"], row["set"]) for row in wanted]
        assert [row["confidence"] for row in found] == pytest.approx([row["confidence"] for row in wanted], abs=1e-4)

    (tmp_path / "torn.png").write_bytes(images[0].read_bytes()[:60])
    command = [sys.executable, "-c", ALONE, tmp_path / "model" / "predict.py", tmp_path / "torn.png", images[0]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1, "the others are answered"
    assert done.stderr.count("\n") == 1 and "torn.png: " in done.stderr and "Traceback" not in done.stderr

    graph = tmp_path / "model" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "model.onnx: missing, damaged or replaced; copy" in done.stderr and not done.stdout
    refused = vladapt("serve", "model", "--port", "0")
    assert refused.code == 1 and "model.onnx: damaged or replaced" in refused.error

    again = vladapt("export", run, "--out", "model")
    assert again.code == 1 and again.error == "vladapt: --out model: exists; give the name of a new folder"
    for arguments, words in {
        ("--format", "tflite"): "--format tflite: give onnx",
        ("--opset", "11"): "--opset 11: too old; give 18 to",
    }.items():
        refused = vladapt("export", run, "--out", "other", *arguments)
        assert refused.code == 2 and words in refused.error
    assert not Path("other").exists()


@pytest.mark.thorough
def test_sets_of_patients_are_those_of_the_run(fit, vladapt, colours, tmp_path):
    """Of predict, and of the run and its export as they are served."""
    from vladapt.core.contracts.serving import Serving, Wishes
    from vladapt.core.engine.serve import load_export, load_served

    pictures = sorted(colours.rglob("*.png"))
    rows = [f"{path},{path.parent.name},{path.parent.name} {int(path.stem) // 2}" for path in pictures]
    Path("patients.csv").write_text("\n".join(["image,label,patient", *rows]))
    made = fit("--data", "patients.csv", "--adapter", "tip-adapter", "--shots", "8", "--json").json
    calibration = Calibration.load(made["run"])
    groups = calibration.groups.tolist()
    assert len(set(groups)) < len(groups)
    exported = vladapt("export", made["run"], "--out", "model", "--json").json
    least = {per: (1 - calibration.conformal(0.8, per_class=per == "class").thresholds).clamp(min=0) for per in PER}
    assert exported["coverage"]["0.8"] == pytest.approx(least["all"].tolist())
    assert exported["coverage_per"]["class"]["0.8"] == pytest.approx(least["class"].tolist())
    images = [str(path) for path in pictures[::5]]
    for per in PER:
        asked = {"coverage": 0.8, "coverage_per": per}
        told = vladapt("predict", made["run"], *images, "--coverage", 0.8, "--coverage-per", per, "--json").json
        for model in (
            load_served(Path(made["run"]), Serving(device="cpu")),
            load_export(tmp_path / "model", Serving()),
        ):
            samples, refused = model.samples([Path(path) for path in images])
            for sample in samples:
                model.prepare(sample)
            model.answer(samples)
            answers = model.rows(samples, refused, Wishes(**asked))["predictions"]
            assert [row["set"] for row in answers] == [row["set"] for row in told["predictions"]]
            assert all(row["label"] in row["set"] for row in answers)


@pytest.mark.thorough
def test_8_bits_say_what_they_change(run, vladapt, tmp_path):
    made = vladapt("export", run, "--out", "small", "--int8")
    assert made.code == 0, made.err
    facts = json.loads((tmp_path / "small" / "export.json").read_text())
    assert facts["graphs"]["pixels"] == "model.int8.onnx" and facts["int8"] == "weights of matrix products in 8 bits"
    check = facts["checks"]["int8"]
    assert check["of_logit_range"] > facts["checks"]["pixels"]["of_logit_range"]
    said = " ".join(made.out.split())
    assert "The same in 8 bits: on" in said and "right with the model" in said
    assert (f"{1 - check['same_answers']:.1%} of the answers change" in said) == (check["same_answers"] < 0.995)


@pytest.mark.thorough
def test_trained_towers_become_the_graph(fit, vladapt, colours):
    made = fit("--data", colours, "--adapter", "lora", "--epochs", "1", "--json")
    exported = vladapt("export", made.json["run"], "--out", "model", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["checks"]["files"]["of_logit_range"] < 1e-3


def test_a_features_file_gives_the_head(vladapt, tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(3, 16)), np.arange(3).repeat(30)
    rows = {"image_features": centres[labels] + 0.2 * rng.normal(size=(90, 16)), "labels": labels}
    np.savez("f.npz", **rows, text_features=centres, class_names=np.array(["a", "b", "c"]))
    made = vladapt("fit", "--features", "f.npz", "--adapter", "gda", "--shots", "4", "--json")
    exported = vladapt("export", made.json["run"], "--out", "model")
    assert exported.code == 0, exported.err
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["export.json", "head.onnx"]
    assert "No graph from pixels: the run was made from a features file" in " ".join(exported.out.split())
    refused = vladapt("export", made.json["run"], "--out", "other", "--int8")
    assert refused.code == 2 and "--int8: is for the graph from pixels" in refused.error


@pytest.mark.thorough
def test_towers_of_a_retrieval_run(vladapt, small_clip_spec, colours):
    splits = {5: "val", 11: "test"}
    rows = [f"{f},{f.parent.name} {f.stem},{splits.get(int(f.stem), 'train')}" for f in colours.rglob("*.png")]
    Path("pairs.csv").write_text("\n".join(["image,caption,split", *rows]))
    how = ("--task", "retrieval", "--data", "pairs.csv", "--backbone", small_clip_spec)
    made = vladapt("fit", *how, "--adapter", "lit", "--epochs", "1", "--json")
    assert made.code == 0, made.err
    exported = vladapt("export", made.json["run"], "--out", "model", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["files"] == ["export.json", "image.onnx", "text.onnx"]
    check = exported.json["checks"]["towers"]
    assert check["of_logit_range"] < 1e-3 and check["images"] == 3
    assert exported.json["context_length"] == 77 and exported.json["preprocessing"]["image_size"] == 16
    refused = vladapt("export", made.json["run"], "--out", "other", "--int8")
    assert refused.code == 2 and "--int8: towers of a retrieval run are exported in 32 bits" in refused.error
    refused = vladapt("export", made.json["run"], "--out", "other", "--per-patient", "mean")
    assert refused.code == 2 and "--per-patient: a run of retrieval has no answers per patient" in refused.error


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ("stat-a", "adapter 'stat-a' reads all images together, which no graph can do; predict with the run"),
        ("tda", "adapter 'tda' learns from the images it predicts, which no graph can do; predict with the run"),
        ("zero", "adapter 'zero' needs more of an image than its features (images), which no graph can do"),
    ],
)
def test_what_no_graph_does(adapter, why, fit, vladapt, colours):
    made = fit("--data", colours, "--adapter", adapter, "--shots", "0", "--json")
    assert made.code == 0, made.err
    refused = vladapt("export", made.json["run"], "--out", "model")
    assert refused.code == 1 and why in refused.error
    assert not Path("model").exists()
