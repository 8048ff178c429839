"""Scores of numbers per pixel: each pixel once, beside baselines that are what they say, with intervals that hold."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from vladapt import load_domain
from vladapt.core.backbones import load_backbone

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

from vladapt.domains.remote_sensing.number_maps import evaluate_number_maps, evaluation
from vladapt.domains.remote_sensing.number_maps.baselines import BANDS, MEAN, TOWER, fit_baselines, predicted
from vladapt.domains.remote_sensing.number_maps.evaluation import earlier_windows, own_area
from vladapt.domains.remote_sensing.number_maps.regressor import Regressor, _interval


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded", device="cpu")


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(evaluation, "SHOWN", 1)


@pytest.fixture
def sites(write_raster, tmp_path):
    """sites(error): images of noise whose target is the red band in per cent, plus an error (site, shape)."""

    def make(error, count=7, side=24, overlap=0.5):
        for number in range(count):
            random = np.random.default_rng(number)
            image = random.integers(1, 255, (3, side, side)).astype(np.uint8)
            target = image[:1] / 2.55 + error(number, (1, side, side))
            where = {"left": 500_000.0 + 50_000 * number}
            write_raster(f"set/images/{number}.tif", image, **where)
            write_raster(f"set/targets/{number}.tif", target.astype(np.float32), **where)
        data = load_domain("remote-sensing").read(tmp_path / "set", "pixel-regression", window_size=16, overlap=overlap)
        split = {"0": "train", "1": "val"}
        return data.with_items([i.with_(split=split.get(i.id.split("/")[1].split(".")[0], "test")) for i in data.items])

    return make


def settled(regressor, data, backbone):
    kept = regressor.model.cfg.vladapt
    kept["baselines"] = fit_baselines(data.split("train"), backbone, 0)
    return regressor.model


def test_each_pixel_counts_once_and_scores_are_of_all_pixels(sites, reddest, embedded):
    errors = {n: 4.0 * np.random.default_rng([9, n]).normal(size=(1, 24, 24)) + n for n in range(7)}
    data = sites(lambda number, shape: errors[number])
    found = evaluate_number_maps(settled(reddest(16), data, embedded), data, embedded, lambda done, total: None)
    tested = np.concatenate([errors[number].ravel() for number in range(2, 7)])
    assert found.metrics["rmse"] == pytest.approx(np.sqrt((tested**2).mean()), rel=1e-3)
    assert found.metrics["mae"] == pytest.approx(np.abs(tested).mean(), rel=1e-3)
    assert found.metrics["bias"] == pytest.approx(-tested.mean(), rel=1e-3) and found.groups == 5
    low, high = found.intervals["rmse"]
    assert low < found.metrics["rmse"] < high
    best = min(found.metrics[name] for name in ("rmse_ridge_bands", "rmse_ridge_features", "rmse_training_mean"))
    assert found.metrics["rmse_gain"] == pytest.approx(best - found.metrics["rmse"], abs=1e-6)
    titles = [section.title for section in found.sections]
    assert "Beside the baselines" in titles and "Predicted against true" in titles and "Windows" in titles


def test_a_model_that_is_worse_than_a_baseline_is_not_praised(sites, reddest, embedded):
    data = sites(lambda number, shape: np.random.default_rng([9, number]).normal(size=shape), overlap=0.0)
    model = settled(reddest(16), data, embedded)
    model.weight.data.fill_(0)
    model.forward = lambda inputs: (inputs[:, 0] * 50, inputs[:, 1])
    found = evaluate_number_maps(model, data, embedded, lambda done, total: None)
    verdict = found.sections[0]
    assert verdict.tone == "bad" and "higher than ridge on the bands" in verdict.text and verdict.text in found.notes
    how_much, low, high = map(float, re.search(r"RMSE (\S+) .* interval (\S+) to (\S+)\)", verdict.text).groups())
    assert 0 < low <= how_much <= high, "the difference and its interval have one sign"


def test_a_ridge_on_the_bands_finds_what_is_in_the_bands(sites, embedded):
    data = sites(lambda number, shape: 0.0 * np.zeros(shape))
    baselines = fit_baselines(data.split("train"), embedded, 0)
    pixels = np.random.default_rng(5).random((20, 30, 3)).astype(np.float32)
    maps = predicted(baselines, pixels, embedded)
    assert np.abs(maps[BANDS] - 100 * pixels[..., 0]).max() < 0.1
    assert maps[MEAN].std() == 0 and maps[TOWER].shape == (20, 30) and maps[TOWER].std() > 0
    train = data.split("train")
    assert maps[MEAN][0, 0] == pytest.approx(sum(i.target.total for i in train) / sum(i.target.count for i in train))


def test_windows_that_overlap_leave_no_pixel_out_and_none_twice():
    boxes = [(x, y, 8, 8) for y in (0, 4, 9) for x in (0, 5, 10)]
    count = np.zeros((17, 18), int)
    for place, (x, y, wide, high) in enumerate(boxes):
        count[y : y + high, x : x + wide] += own_area(boxes[place], boxes[:place])
    assert (count == 1).all()


def test_earlier_windows_are_those_of_the_image_that_overlap_and_no_others(sites):
    data = sites(lambda number, shape: np.full(shape, number + 1.0), count=2)
    images = {item.source: item for item in data.items}
    random, items = np.random.default_rng(0), []
    for row in range(120):
        box = (*map(int, random.integers(0, 60, 2)), *map(int, random.integers(4, 12, 2)))
        image = list(images.values())[row % len(images)]
        items.append(image.with_(id=str(row), target=replace(image.target, box=box)))

    for row, boxes in enumerate(earlier_windows(items)):
        own, before = items[row].target.box, items[row % len(images) : row : len(images)]
        assert set(boxes) <= {item.target.box for item in before} and len(boxes) < 30
        assert np.array_equal(own_area(own, boxes), own_area(own, [item.target.box for item in before]))


def test_intervals_are_calibrated_on_places_and_hold_on_others(sites, reddest):
    data = sites(lambda number, shape: np.random.default_rng([9, number]).normal(size=shape) * 5, count=40)
    items = [item.with_(split="val" if int(item.id.split("/")[1].split(".")[0]) % 2 else "test") for item in data.items]
    regressor = reddest(16)
    regressor.coverage = 0.8
    made, notes = _interval(Regressor(regressor.model), [i for i in items if i.split == "val"], 0)
    assert made["places"] == 20 and "20 places of val" in notes[0]
    few, words = _interval(regressor, [i for i in items if i.split == "val"][:3], 0)
    assert few is None and "at least" in words[0] and _interval(regressor, [], 0)[0] is None


def test_channels_that_the_model_did_not_learn_are_refused(reddest):
    with pytest.raises(Exception, match=r"has 4 channels, but the model learned 3"):
        reddest(16).numbers([np.zeros((8, 8, 4), np.float32)])


def test_ridge_chooses_its_penalty_on_places_that_it_did_not_see():
    from vladapt.domains.remote_sensing.number_maps.baselines import _ridge

    random = np.random.default_rng(0)
    of_places, numbers = random.normal(size=(40, 30)), random.normal(size=40)  # a place says nothing of another
    parts = [
        (features + 0.01 * random.normal(size=(20, 30)), np.full(20, number), str(place))
        for place, (features, number) in enumerate(zip(of_places, numbers))
    ]
    assert np.abs(_ridge(parts)["weights"]).max() < 0.1
    alone = [(features, truth, "one place") for features, truth, _ in parts]
    assert np.abs(_ridge(alone)["weights"]).max() > 0.4  # rows of one place are held out one by one
