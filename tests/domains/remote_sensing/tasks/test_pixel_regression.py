"""Pixel regression as a task: a fit is scored beside its baselines, and its run maps new images and is scored again."""

from __future__ import annotations

import json

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


@pytest.mark.thorough
def test_the_contract(data):
    images = sorted((data / "images").iterdir())[:2]
    check_task(task_class(TASK), load_domain("remote-sensing"), images=images, data=str(data), **TINY)
