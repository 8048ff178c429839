"""Pixel regression as a task: a fit is scored beside its baselines, and its run maps new images and is scored again."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import vladapt
from vladapt import load_domain
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import task_class
from vladapt.testing import check_task

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

TASK = "pixel-regression"
TINY = {"encoder": "unet", "width": 4, "steps": 2, "batch_size": 2, "device": "cpu"}


def sites(folder, count=18, side=24):
    from vladapt.domains.remote_sensing.drawn_heights import write_sites

    write_sites(folder, range(count), side)
    return folder


def fit(data, out, **changes):
    return vladapt.fit(domain="remote-sensing", task=TASK, data=str(data), out=str(out), **{**TINY, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    return fit(data, tmp_path_factory.mktemp("runs"), interval=0.6, interval_width="pixel")


def test_a_run_tells_how_far_it_errs_beside_its_baselines(fitted):
    scores = fitted.metrics["adapted"]
    assert scores["rmse"] > 0 and {"mae", "r2", "rmse_ridge_bands", "rmse_ridge_features", "interval_coverage"} <= set(
        scores
    )
    assert fitted.metrics["metric_intervals"]["adapted"]["rmse_gain"][0] < 0  # two steps learn nothing
    page = (fitted.run / "report.html").read_text()
    assert "Beside the baselines" in page and "Predicted against true" in page
    kept = json.loads((fitted.run / "run.json").read_text())["plan"]
    assert kept["vladapt"]["interval"]["places"] >= 2 and kept["model"]["target_std"] > 0
    assert vladapt.evaluate(fitted.run, device="cpu")["adapted"] == pytest.approx(scores)


def test_new_images_become_maps_with_intervals(fitted, data, tmp_path):
    images = sorted((data / "images").iterdir())[:2]
    found = vladapt.predict(fitted.run, images, out=str(tmp_path / "maps"), device="cpu")
    assert sorted(file.name for file in found.files) == ["site_00.png", "site_00.tif", "site_01.png", "site_01.tif"]
    with rasterio.open(tmp_path / "maps" / "site_00.tif") as made, rasterio.open(images[0]) as source:
        assert (made.crs, made.transform, made.shape, made.count) == (source.crs, source.transform, source.shape, 3)
        low, high = made.read(2), made.read(3)
    assert (high > low).all() and np.ptp(high - low) > 0 and "m" in found.rows()[0]["summary"]
    plain = vladapt.predict(fitted.run, images, device="cpu")
    assert [row["mean"] for row in plain.rows()] == [row["mean"] for row in found.rows()] and not plain.files


def test_shots_draw_windows_of_five_bins(data, tmp_path):
    result = fit(data, tmp_path, shots=1)
    assert len(json.loads((result.run / "run.json").read_text())["splits"]["train"]) == 5


def test_what_does_not_fit_is_refused(fitted, data, tmp_path):
    for changes, words in (
        ({"epochs": 1}, "give one of them"),
        ({"shots": 0}, "--shots 0"),
        ({"classes": "a,b"}, "numbers have no classes"),
        ({"loss_kind": "cubic"}, "loss_kind|loss-kind"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(data, tmp_path, **changes)
    with pytest.raises(DataError, match="give --labels"):
        fit(data / "images" / "site_00.tif", tmp_path)
    with pytest.raises((CapabilityError, ConfigError), match="classes"):
        vladapt.predict(fitted.run, [data / "images" / "site_00.tif"], classes="a,b", device="cpu")


def test_an_exported_graph_maps_a_raster_as_the_run_does(fitted, data, write_raster, tmp_path):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    exported = vladapt.export(fitted.run, out=str(tmp_path / "graph"))
    checks = exported.facts["checks"]
    assert {name: check["same_pixels"] for name, check in checks.items()} == {"pixels": 1.0, "files": 1.0}
    with rasterio.open(sorted((data / "images").iterdir())[0]) as site:
        values = np.tile(site.read(), (1, 3, 2))[:, :60, :41]
    values[:, :7, :30] = 0
    raster = write_raster("large.tif", values, nodata=0)
    found = vladapt.predict(fitted.run, [raster], out=str(tmp_path / "maps"), device="cpu")
    small = write_raster("small.tif", values[:, :8, :8])
    command = [sys.executable, "-I", tmp_path / "graph" / "predict.py", raster, small, "--out", tmp_path / "script"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1 and "small.tif: is smaller than a window of 24 pixels" in done.stderr, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert [row["mean"], row["pixels"]] == pytest.approx([found.rows()[0]["mean"], found.rows()[0]["pixels"]], rel=1e-4)
    with rasterio.open(tmp_path / "maps" / "large.tif") as wanted, rasterio.open(row["map"]) as made:
        assert (made.crs, made.transform, made.count) == (wanted.crs, wanted.transform, 3)
        assert np.isnan(made.read(1)).sum() == 7 * 30
        np.testing.assert_allclose(made.read(), wanted.read(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="--int8: is for classification"):
        vladapt.export(fitted.run, out=str(tmp_path / "small"), int8=True)


@pytest.mark.thorough
def test_the_contract(data):
    images = sorted((data / "images").iterdir())[:2]
    check_task(task_class(TASK), load_domain("remote-sensing"), images=images, data=str(data), **TINY)
