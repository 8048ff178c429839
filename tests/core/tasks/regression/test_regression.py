"""Regression from end to end: fitted, scored again, asked of new images, compared, redacted, refused."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.commands.tables import comparison_tests
from vladapt.core.contracts.serving import Serving, Wishes
from vladapt.core.engine.serve import load_export, load_served
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError
from vladapt.core.export.folder import Session
from vladapt.core.metrics import NumberSums
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import task_class
from vladapt.core.runs.folder import Run
from vladapt.core.tasks.regression.contest import NumberContest
from vladapt.testing import check_task

QUICK = {"adapter": {"epochs": 2, "hidden": 8}}


def write_features(file, count=120, width=12, places=60, **arrays):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, width))
    targets = 2 * features[:, 0] + 5 + 0.3 * rng.normal(size=count)
    groups = np.array([f"p{n % places}" for n in range(count)])
    ids = np.array([f"image {n}" for n in range(count)])
    np.savez(file, **{"image_features": features, "targets": targets, "groups": groups, "ids": ids, **arrays})
    return str(file)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("rows") / "rows.npz")


@pytest.fixture(scope="module")
def fitted(features, tmp_path_factory):
    return vladapt.fit(task="regression", features=features, out=str(tmp_path_factory.mktemp("runs")), **QUICK)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """60 pictures of 30 patients, whose light is the number."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = ["image,height,patient"]
    for number in range(60):
        value = rng.uniform(0, 1)
        pixels = (rng.integers(0, 60, (16, 16, 3)) + int(180 * value)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{10 * value:.3f},p{number // 2}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.thorough
def test_it_keeps_the_contract_of_tasks(features):
    check_task(task_class("regression"), features=features, **QUICK)


def test_metrics_stand_beside_both_baselines_with_intervals_over_groups(fitted):
    metrics = fitted.metrics
    assert set(metrics["baselines"]) == {"train-mean", "ridge"} and metrics["zero_shot"] is None
    assert metrics["adapted"]["r2"] > 0.9 > 0.1 > metrics["baselines"]["train-mean"]["r2"]
    assert metrics["baselines"]["train-mean"]["r2_of_train_mean"] == 0
    assert metrics["test_groups"] < metrics["test_images"]
    for side in ("adapted", "ridge"):
        low, high = metrics["intervals"][side]["rmse"]
        scores = metrics["adapted"] if side == "adapted" else metrics["baselines"][side]
        assert low < scores["rmse"] < high
    assert metrics["better_baseline"] == "ridge" and metrics["gain"]["units"] == metrics["test_groups"]


def test_a_method_like_ridge_is_not_praised(fitted):
    verdict = task_class("regression")(None).verdict(fitted.metrics)
    low, high = fitted.metrics["gain"]["interval"]
    assert "ridge" in verdict and ("can be chance" in verdict) == (low <= 0 <= high)


def test_the_verdict_is_of_the_paired_interval(fitted):
    task = task_class("regression")(None)

    def verdict(value, interval):
        return task.verdict({**fitted.metrics, "gain": {"value": value, "interval": interval, "units": 9}})

    assert "lower by 0.5" in verdict(0.5, [0.1, 0.9]) and "more than chance" in verdict(0.5, [0.1, 0.9])
    assert "higher by 0.5" in verdict(-0.5, [-0.9, -0.1]) and "more than chance" in verdict(-0.5, [-0.9, -0.1])
    assert "can be chance" in verdict(0.5, [-0.1, 0.9]) and "can be chance" in verdict(0.5, None)


def test_intervals_are_calibrated_on_val_and_their_coverage_is_measured_on_test(features, tmp_path):
    few = write_features(tmp_path / "few.npz", places=20)
    unbounded = vladapt.fit(task="regression", features=few, out=str(tmp_path / "a"), **QUICK)
    assert unbounded.metrics["number_intervals"]["mean_width"] is None
    assert any("at least 9 are needed" in note for note in unbounded.notes)
    widths = [
        vladapt.fit(
            task="regression", features=few, interval_coverage=share, out=str(tmp_path / str(share)), **QUICK
        ).metrics["number_intervals"]
        for share in (0.5, 0.7)
    ]
    assert widths[0]["mean_width"] < widths[1]["mean_width"] and widths[1]["asked"] == 0.7


def test_it_is_scored_again_alike_and_on_other_rows(fitted, features, tmp_path):
    assert vladapt.evaluate(fitted.run)["adapted"] == pytest.approx(fitted.metrics["adapted"])
    other = vladapt.evaluate(fitted.run, features=features, out=str(tmp_path / "eval"))
    assert other["test_images"] == 120 and (tmp_path / "eval" / "report.html").is_file()
    with pytest.raises(DataError, match="width"):
        vladapt.evaluate(fitted.run, features=write_features(tmp_path / "wide.npz", width=20))


@pytest.mark.parametrize("head", ["mlp", "linear", "ridge"])
@pytest.mark.parametrize("width", [3, 700])
def test_every_head_on_features_of_any_width_at_one_shot(head, width, tmp_path):
    file, of_head = write_features(tmp_path / "rows.npz", width=width), QUICK if head == "mlp" else {}
    made = vladapt.fit(task="regression", features=file, shots=1, head=head, out=str(tmp_path / "runs"), **of_head)
    assert len(Run.open(made.run).info.splits["train"]) == 5 and made.metrics["adapted"]["rmse"] > 0


def test_options_change_the_fit(features, tmp_path):
    def rmse(name, **options):
        given = {**QUICK, **options}
        return vladapt.fit(task="regression", features=features, out=str(tmp_path / name), **given).metrics

    trained = {"shots": 3, "adapter": {"epochs": 5, "lr": 0.05}}  # too few to choose no epoch at all
    usual = rmse("usual", **trained)
    assert rmse("l1", error="l1", **trained)["adapted"] != usual["adapted"]
    assert rmse("adaptive", intervals="adaptive")["number_intervals"] != rmse("plain")["number_intervals"]
    assert rmse("shots", shots=4)["adapted"] != rmse("plain again")["adapted"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"head": "ridge", "error": "l1"}, "--error l1"),
        ({"head": "ridge", "adapter": {"epochs": 3}}, "adapter.epochs"),
        ({"head": "linear", "adapter": {"hidden": 3}}, "adapter.hidden"),
    ],
)
def test_options_that_a_head_does_not_use_are_refused(options, named, features, tmp_path):
    with pytest.raises(ConfigError, match=named):
        vladapt.fit(task="regression", features=features, out=str(tmp_path), **options)


def test_two_images_are_fitted_without_val_and_adaptive_intervals_that_are_constant_say_so(tmp_path):
    file = write_features(tmp_path / "two.npz", count=2, places=2)
    made = vladapt.fit(task="regression", features=file, head="ridge", intervals="adaptive", out=str(tmp_path))
    notes = " ".join(made.notes)
    assert "val, which has 0 images" in notes and "need 20 training images" in notes
    assert "RMSE is" in Run.open(made.run).info.verdict


def test_a_column_of_any_name_is_drawn_and_predicted_numbers_keep_their_digits(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "odd")
    (folder / "table.csv").write_text((pictures / "table.csv").read_text().replace("height", "$\\frac$"))
    column = {"target_column": "$\\frac$"}
    made = vladapt.fit(task="regression", data=str(folder), head="ridge", out=str(tmp_path), **column)
    predicted = vladapt.load_run(made.run).predict(pictures / "0.png")
    predicted.numbers = [12345678.5]
    assert predicted.csv().splitlines()[1].split(",")[1] == "12345678.5"


def test_rows_without_a_number_are_left_out_and_counted(tmp_path):
    targets = np.arange(120.0)
    targets[:7] = np.nan
    made = vladapt.fit(
        task="regression", features=write_features(tmp_path / "f.npz", targets=targets), out=str(tmp_path), **QUICK
    )
    assert "Rows without a number, left out: 7." in made.notes


def test_a_report_shows_scores_and_a_scatter_plot(fitted):
    page = (fitted.run / "report.html").read_text()
    for words in ("Predicted against true", "RMSE", "training mean", "ridge", "hold the true number of"):
        assert words in page, words


def test_images_are_predicted_with_intervals_from_what_the_run_keeps(pictures, small_clip_spec, tmp_path):
    how = {"domain": "natural", "task": "regression", "data": str(pictures), "device": "cpu"}
    made = vladapt.fit(backbone=small_clip_spec, interval_coverage=0.7, out=str(tmp_path / "runs"), **how, **QUICK)
    assert made.metrics["column"] == "height" and made.metrics["adapted"]["r2"] > 0.8
    images = [str(pictures / f"{n}.png") for n in range(3)]
    files = [tmp_path / "p.csv", tmp_path / "p.jsonl"]
    predicted = vladapt.predict(made.run, images, out=files)
    rows = predicted.rows()
    assert [row["low"] < row["number"] < row["high"] for row in rows] == [True] * 3
    assert [json.loads(line) for line in files[1].read_text().splitlines()] == rows
    table = list(csv.DictReader(files[0].open()))
    assert set(table[0]) == {"id", "height", "height_low", "height_high"}
    assert float(table[0]["height"]) == pytest.approx(rows[0]["number"], rel=1e-4)
    assert vladapt.load_run(made.run).predict(images[0]).rows()[0] == rows[0]
    page = (made.run / "report.html").read_text()
    assert "Largest errors" in page and ".png: true" in page


def test_a_graph_its_script_and_both_servers_answer_as_the_run_does(pictures, small_clip_spec, tmp_path):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    how = {"domain": "natural", "task": "regression", "data": str(pictures), "device": "cpu", "intervals": "adaptive"}
    made = vladapt.fit(backbone=small_clip_spec, interval_coverage=0.7, out=str(tmp_path / "runs"), **how, **QUICK)
    exported = vladapt.export(made.run, out=str(tmp_path / "graph"))
    checks = exported.facts["checks"]
    assert {name: check["same_numbers"] for name, check in checks.items()} == dict.fromkeys(checks, 1.0)
    assert set(checks) == {"features", "pixels", "files"} and exported.facts["coverage"] == 0.7
    images = [str(pictures / f"{n}.png") for n in range(3)]
    rows = vladapt.predict(made.run, images).rows()
    assert len({round(row["high"] - row["low"], 6) for row in rows}) == 3
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "graph" / "predict.py"), *images, str(pictures / "table.csv")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "table.csv: cannot identify image file" in done.stderr
    served = [rows, [json.loads(line) for line in done.stdout.splitlines()]]
    for model in (load_served(made.run, Serving(device="cpu")), load_export(tmp_path / "graph", Serving())):
        assert (model.facts.column, model.facts.coverage) == ("height", 0.7)
        samples, refused = model.samples([Path(image) for image in images])
        for sample in samples:
            model.prepare(sample)
        model.answer(samples)
        served.append(model.rows(samples, refused, Wishes())["predictions"])
    for answers in served:
        assert [row["id"] for row in answers] == images and {row["column"] for row in answers} == {"height"}
        for name in ("number", "low", "high"):
            assert [row[name] for row in answers] == pytest.approx([row[name] for row in rows], rel=1e-4)


def test_a_run_of_a_features_file_has_a_graph_from_features_alone(fitted, features, tmp_path):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    exported = vladapt.export(fitted.run, out=str(tmp_path / "graph"))
    assert exported.facts["graphs"] == {"features": "head.onnx"} and "features file" in exported.notes[0]
    with pytest.raises(CapabilityError, match="no graph from pictures"):
        load_export(tmp_path / "graph", Serving())
    with pytest.raises(ConfigError, match="--int8: is for classification"):
        vladapt.export(fitted.run, out=str(tmp_path / "small"), int8=True)
    facts = json.loads((tmp_path / "graph" / "export.json").read_text())
    session = Session(tmp_path / "graph" / facts["graphs"]["features"])
    rows = np.load(features)["image_features"][:5].astype(np.float32)
    assert session(features=3 * rows)["number"] == pytest.approx(session(features=rows)["number"], rel=1e-5)


def test_a_redacted_run_names_and_shows_no_image(pictures, small_clip_spec, tmp_path):
    how = {"domain": "natural", "task": "regression", "data": str(pictures), "device": "cpu", "redact": True}
    made = vladapt.fit(backbone=small_clip_spec, out=str(tmp_path / "runs"), **how, **QUICK)
    for name in ("report.html", "run.json", "metrics.json", "log.txt"):
        assert ".png" not in (made.run / name).read_text(), name


def test_lora_trains_the_towers_from_ridge_on(pictures, small_clip_spec, tmp_path):
    how = {"domain": "natural", "task": "regression", "data": str(pictures), "device": "cpu", "shots": 4}
    adapter = {"name": "lora", "epochs": 2, "batch_size": 4, "lr": 5e-3}
    made = vladapt.fit(backbone=small_clip_spec, adapter=adapter, out=str(tmp_path / "runs"), **how)
    assert made.adapter.name == "lora" and made.adapter.towers == "image"
    assert made.report.history[0]["loss"] < 0.5  # of standardised numbers: it does not begin at the mean
    assert made.metrics["adapted"] != made.metrics["baselines"]["ridge"]
    assert vladapt.evaluate(made.run)["adapted"] == pytest.approx(made.metrics["adapted"])
    again = vladapt.fit(backbone=small_clip_spec, adapter={**adapter, "lr": 1e-9}, out=str(tmp_path / "still"), **how)
    assert again.metrics["adapted"]["rmse"] == pytest.approx(again.metrics["baselines"]["ridge"]["rmse"], rel=1e-3)


def test_methods_are_compared_over_shots(features, tmp_path):
    recipe = resolve(flags={"task": "regression", "features": features, "adapter.epochs": 2})
    made = vladapt.compare(recipe, shots=[1, 4], seeds=[1, 2], out=str(tmp_path / "compared"))
    assert {(row["adapter"], row["shots"]) for row in made.rows} == {
        (name, shots) for name in ("train-mean", "ridge", "head") for shots in (1, 4)
    }
    assert made.metric == "r2" and {row["images"] for row in made.rows} == {5, 20}
    tests = made.tests()
    assert [test["adapter"] for test in tests] == ["head", "head"]
    assert all(test["interval"][0] <= test["difference"] <= test["interval"][1] for test in tests)
    assert "permutation test of squared errors on the" in comparison_tests(tests)[-1]


def test_intervals_of_several_methods_are_wider_than_that_of_one():
    true, noise = torch.arange(40.0), torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    names = ("train-mean", "ridge", "head", "lora")
    at = {name: NumberSums.of(true + (4 - k) * noise[k], true, 20.0) for k, name in enumerate(names)}
    contest = object.__new__(NumberContest)
    contest.test = range(40)
    alone, beside = (contest._against_the_better(4, {name: at[name] for name in names[:count]})[0] for count in (3, 4))
    assert alone["difference"] == beside["difference"]
    assert beside["interval"][0] < alone["interval"][0] < alone["interval"][1] < beside["interval"][1]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"shots": 0}, ConfigError, "--shots 0"),
        ({"adapter": {"name": "lora"}}, CapabilityError, "features file does not have"),
        ({"adapter": {"alpha": 2}}, UnknownNameError, "the head of regression"),
        ({"classes": "a,b"}, ConfigError, "numbers have no classes"),
        ({"head": "tree"}, ConfigError, "tree"),
        ({"resume": True}, ConfigError, "--resume"),
        ({"interval_coverage": 1.0}, ConfigError, "interval_coverage"),
    ],
)
def test_what_does_not_go_together_is_refused(features, tmp_path, given, error, words):
    with pytest.raises(error, match=words):
        vladapt.fit(task="regression", features=features, out=str(tmp_path), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("adapter", "options", "words"),
    [
        ({"name": "tip-adapter"}, {}, "cannot learn numbers"),
        ({"name": "lora", "loss": "clip"}, {}, "choose it with --error"),
        ({"name": "lora"}, {"head": "ridge"}, "--head ridge"),
    ],
)
def test_adapters_that_do_not_suit_are_refused(pictures, tmp_path, adapter, options, words):
    with pytest.raises((CapabilityError, ConfigError), match=words):
        how = {"domain": "natural", "task": "regression", "data": str(pictures), "out": str(tmp_path)}
        vladapt.fit(adapter=adapter, **how, **options)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"targets": np.zeros(3)}, "one per row"),
        ({"targets": np.array(["a"] * 120)}, "numbers are needed"),
        ({"targets": np.full(120, np.inf)}, "infinity"),
        ({"targets": np.full(120, np.nan)}, "0 row with a number"),
    ],
)
def test_features_files_without_usable_numbers_are_refused(tmp_path, arrays, words):
    file = write_features(tmp_path / "rows.npz", **arrays)
    with pytest.raises(DataError, match=words):
        vladapt.fit(task="regression", features=file, out=str(tmp_path / "runs"))
