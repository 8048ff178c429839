"""Runs in MLflow, in a store of files: what is logged, and what the loaded model says."""

from __future__ import annotations

import json
import pickletools
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow", reason="extra mlflow is not installed")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import vladapt  # noqa: E402
from vladapt.core.errors import ConfigError, DataError  # noqa: E402

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Class folders, 12 pictures each."""
    folder, drawn = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(12):
            noise = drawn.integers(-50, 50, (24, 24, 3))
            picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def logged(tmp_path_factory, pictures, small_clip_spec):
    """(the run, MLflow's info of its model)."""
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(place / "cache"))
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        how = {"adapter": {"name": "nearest-mean"}, "backbone": small_clip_spec, "shots": 2, "out": str(place)}
        run = vladapt.fit(domain="natural", data=str(pictures), **how).run
        mlflow.set_tracking_uri((place / "mlruns").as_uri())
        yield run, vladapt.mlflow.log_run(run, tags={"by": "a test"})


def test_what_is_logged(logged):
    run, info = logged
    kept = mlflow.get_run(info.run_id).data
    metrics = json.loads((run / "metrics.json").read_text())
    low, high = metrics["metric_intervals"]["adapted"]["accuracy"]
    assert kept.metrics["adapted/accuracy"] == pytest.approx(metrics["adapted"]["accuracy"])
    assert kept.metrics["adapted/accuracy_low"] == pytest.approx(low)
    assert kept.metrics["adapted/accuracy_high"] == pytest.approx(high)
    assert kept.metrics["linear_probe/accuracy"] == metrics["baselines"]["linear_probe"]["accuracy"]
    assert kept.params["adapter"] == "nearest-mean" and kept.params["shots"] == "2"
    assert kept.tags["licence.data"] == "unknown" and kept.tags["by"] == "a test"
    names = {each.path for each in mlflow.MlflowClient().list_artifacts(info.run_id)}
    assert {"report.html", "run.json"} <= names


def test_the_loaded_model_says_what_the_run_says(logged, pictures):
    run, info = logged
    import pandas

    model = mlflow.pyfunc.load_model(info.model_uri)
    images = [str(pictures / name / "05.png") for name in ("blue", "red", "green")]
    expected = vladapt.load_run(run).predict(images, coverage=0.9).rows()
    of_bytes = [Path(image).read_bytes() for image in images]
    for given in (images, pandas.DataFrame({"image": images, "n": 1}), of_bytes, pandas.DataFrame({"x": of_bytes})):
        rows = model.predict(given)
        assert list(rows["label"]) == [row["label"] for row in expected]
        assert list(rows["confidence"]) == pytest.approx([row["confidence"] for row in expected])
        assert list(rows["set"]) == [row["set"] for row in expected]
    assert list(model.predict(images, params={"coverage": 0.0})["set"]) == [None] * 3


def test_rows_stay_in_their_places(logged, pictures, tmp_path):
    model = mlflow.pyfunc.load_model(logged[1].model_uri)
    image, broken = str(pictures / "red" / "01.png"), tmp_path / "broken.png"
    broken.write_text("no image")
    rows = model.predict([image, str(broken), "nowhere.png", image])
    assert list(rows["label"].notna()) == [True, False, False, True] and rows["label"][0] == rows["label"][3]
    assert rows["error"][0] == "" and rows["error"][1] and "no such file" in rows["error"][2]
    assert model.predict([b"nothing"])["error"][0]
    with pytest.raises(ConfigError, match="give paths or the bytes"):
        model.predict([3])


def test_nothing_is_pickled(logged, pictures, tmp_path):
    run, _ = logged
    vladapt.mlflow.save_model(run, tmp_path / "saved")
    described = (tmp_path / "saved" / "MLmodel").read_text()
    assert "loader_module: vladapt.core.sharing.mlflow_flavour" in described and "pickle" not in described
    for file in (path for path in (tmp_path / "saved").rglob("*") if path.is_file()):
        with pytest.raises(ValueError):
            list(pickletools.genops(file.read_bytes()))
    predictor = vladapt.mlflow.load_model(str(tmp_path / "saved"))
    assert predictor.predict([pictures / "red" / "02.png"]).rows()[0]["label"] in COLOURS
    with pytest.raises(DataError, match="exists"):
        vladapt.mlflow.save_model(run, tmp_path / "saved")
