"""`--per-patient`: one row per patient in `predict`, per request in `serve` and of exports, and scores in `eval`."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts.serving import Serving, Wishes
from vladapt.core.contracts.use import Use
from vladapt.core.engine.fit import task_of_run
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.runs.folder import Run
from vladapt.core.serving.exported import ServedExport
from vladapt.core.tasks.classification.serving import ServedRun

PATIENTS, EACH = 48, 4


def draw(folder: Path, patients: int, label: bool) -> Path:
    """Pictures of patients, "sick" ones a little redder, and a table of who is on which."""
    rng, lines = np.random.default_rng(patients), [f"image,patient{',label' * label}"]
    (folder / "images").mkdir(parents=True)
    for patient in range(patients):
        sick = patient % 2
        tone = 25 * rng.normal()
        for n in range(EACH):
            pixels = rng.integers(60, 180, (24, 24, 3)) + [[[30 * sick + tone, -tone, 10 * rng.normal()]]]
            name = f"images/{patient}-{n}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            lines.append(f"{name},P{patient:03d}{(',sick' if sick else ',well') * label}")
    (folder / ("labels.csv" if label else "patients.csv")).write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, small_clip_spec):
    """A run that knows its patients and has an operating point, and new images of ten patients."""
    from vladapt.cli import main

    place = tmp_path_factory.mktemp("patients")
    data, new = draw(place / "data", PATIENTS, True), draw(place / "new", 10, False)
    where = ("--domain", "medical", "--backbone", small_clip_spec, "--data", data, "--out", place / "runs")
    how = ("--adapter", "linear-probe", "--shots", 40, "--operating-point", "specificity=0.6", "--json")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
        patch.setenv("VLADAPT_CACHE", str(place / "cache"))
        main(list(map(str, ("fit", *where, *how))))
    assert ended.value.code == 0
    return Path(json.loads(out.getvalue())["run"]), new


def test_predict_gives_one_row_per_patient(vladapt, fitted):
    run, new = fitted
    of_images = vladapt("predict", run, new, "--json").json["predictions"]
    mean, largest = (vladapt("predict", run, new, "--per-patient", how, "--json").json for how in ("mean", "max"))
    rows = mean["predictions"]
    assert (len(of_images), len(rows), len(largest["predictions"])) == (40, 10, 10)
    assert sorted(image for row in rows for image in row["images"]) == sorted(row["id"] for row in of_images)
    assert all(len({Path(image).stem.partition("-")[0] for image in row["images"]}) == 1 for row in rows)
    assert not any("P0" in row["id"] for row in rows)  # a hash stands for a patient
    assert [row["confidence"] for row in rows] != [row["confidence"] for row in largest["predictions"]]
    assert "the mean of its images' probabilities, calibrated anew on" in mean["notes"][0]
    assert "the median group has 4 images here" in mean["notes"][0]
    shown = vladapt("predict", run, new, "--per-patient", "mean").out
    assert "patient" in shown.splitlines()[1] and "images" in shown.splitlines()[1]


@pytest.mark.parametrize(("patients", "answers"), [("AAA", 1), ("AAB", 2), ("ABC", 3)])
def test_a_table_beside_few_images_says_whose_they_are(vladapt, fitted, tmp_path, patients, answers):
    """One patient's images, as a clinic sends them, or one image of each."""
    run, new = fitted
    for n in range(3):
        shutil.copy(new / "images" / f"0-{n}.png", tmp_path / f"{n}.png")
    (tmp_path / "who.csv").write_text("\n".join(["image,patient", *(f"{n}.png,{of}" for n, of in enumerate(patients))]))
    rows = vladapt("predict", run, tmp_path, "--per-patient", "mean", "--json").json["predictions"]
    assert sorted(len(row["images"]) for row in rows) == sorted(map(patients.count, set(patients)))
    assert len(rows) == answers


def test_the_operating_point_is_chosen_again_among_patients(vladapt, fitted):
    run, new = fitted
    finding = json.loads((run / "metrics.json").read_text())["findings"]["finding"]
    of_image = vladapt("predict", run, new, "--json").json["predictions"][0]["threshold"]
    rows = vladapt("predict", run, new, "--per-patient", "mean", "--json").json["predictions"]
    at = rows[0]["threshold"]
    assert at != of_image
    told = " ".join(vladapt("predict", run, new, "--per-patient", "mean", "--out", "rows.html").out.split())
    assert "(the operating point of the run, chosen again for patients)" in told
    assert "Patient by patient" in (page := Path("rows.html").read_text()) and "Predictions for 10 patients" in page
    assert "(the operating point of the run)" in vladapt("predict", run, new).out
    for row in rows:
        probability = next(each["probability"] for each in row["top"] if each["class"] == finding)
        assert (row["label"] == finding) == (probability >= at)
    none = vladapt("predict", run, new, "--per-patient", "mean", "--threshold", 0, "--json").json["predictions"]
    assert {row["label"] for row in none} == {finding} and none[0]["threshold"] == 0


def test_sets_and_files_are_of_patients(vladapt, fitted):
    run, new = fitted
    told = vladapt("predict", run, new, "--per-patient", "mean", "--coverage", 0.8, "--out", "rows.csv")
    table = list(csv.reader(Path("rows.csv").read_text().splitlines()))
    assert (
        told.code == 0
        and len(table) == 11
        and table[0][:6] == ["id", "label", "confidence", "images", "threshold", "set"]
    )
    assert table[1][3].count(";") == EACH - 1


@pytest.mark.parametrize(
    "more, message",
    [
        (("--per-patient", "median"), "--per-patient median: give mean or max"),
        (("--per-patient", "mean", "--explain", "--out", "why"), "an explanation is of an image"),
        (("--per-patient", "mean", "--group-column", "none"), "nothing says which images belong together; put a table"),
        (("--per-patient", "mean", "--group-column", "nobody"), "no table in"),
    ],
)
def test_what_cannot_be_is_one_line(vladapt, fitted, more, message):
    run, new = fitted
    refused = vladapt("predict", run, new, *more)
    assert refused.code != 0 and message in refused.error


@pytest.mark.thorough
def test_eval_scores_what_predict_answers_patients(vladapt, fitted, tmp_path):
    """The metrics are those of the rows of predict, image by image and patient by patient."""
    run, _ = fitted
    data = draw(tmp_path / "other", 60, True)
    told = vladapt("eval", run, "--data", data, "--per-patient", "mean", "--out", "scores", "--json").json
    of = told["per_patient"]
    assert (of["how"], of["patients"], told["test_images"]) == ("mean", 60, 60 * EACH)
    assert of["scores"]["auroc"] != told["adapted"]["auroc"] and of["made"] in told["notes"]
    (data / "labels.csv").rename(data / "patients.csv")
    rows = vladapt("predict", run, data, "--per-patient", "mean", "--threshold", 0.5, "--json").json["predictions"]
    truth = [("well", "sick")[int(Path(row["images"][0]).stem.partition("-")[0]) % 2] for row in rows]
    right = [row["label"] == true for row, true in zip(rows, truth, strict=True)]
    assert sum(right) / 60 == pytest.approx(of["scores"]["accuracy"])
    low, high = of["intervals"]["accuracy"]
    assert low < of["scores"]["accuracy"] < high

    at = vladapt("predict", run, data, "--per-patient", "mean", "--json").json["predictions"]
    ((finding, point),) = of["operating_point"]["points"].items()
    assert point["threshold"] == pytest.approx(at[0]["threshold"])
    found = [row["label"] == finding for row, true in zip(at, truth, strict=True) if true == finding]
    assert point["rates"]["sensitivity"] == pytest.approx(sum(found) / len(found))
    page = Path("scores/report.html").read_text()
    assert "Mean of 60 patients" in page and f"of patients {point['threshold']:.3f}" in page


def test_eval_shows_both_and_changes_no_score_of_images(vladapt, fitted, tmp_path):
    run, _ = fitted
    data = draw(tmp_path / "other", 60, True)
    plain = vladapt("eval", run, "--data", data, "--json").json
    largest = vladapt("eval", run, "--data", data, "--per-patient", "max", "--json").json
    mean = vladapt("eval", run, "--data", data, "--per-patient", "mean", "--json").json
    assert largest["per_patient"]["scores"] != mean["per_patient"]["scores"] and "per_patient" not in plain
    assert largest["adapted"] == plain["adapted"] and largest["operating_point"] == plain["operating_point"]
    shown = " ".join(vladapt("eval", run, "--data", data, "--per-patient", "max").out.split())
    assert "One answer per patient" in shown and "max of 60 patients" in shown


def test_predictive_values_of_images_at_a_prevalence_stand_beside_those_of_patients(vladapt, fitted, tmp_path):
    run, _ = fitted
    data = draw(tmp_path / "other", 60, True)
    how = ("--data", data, "--per-patient", "max", "--prevalence", 0.02)
    metrics = vladapt("eval", run, *how, "--json").json
    ((finding, of_images),) = metrics["operating_point"]["points"].items()
    of_patients = metrics["per_patient"]["operating_point"]["points"][finding]
    text = vladapt("eval", run, *how).out.partition("One answer per patient")[2]
    shown = [line.split() for line in text.splitlines()]
    rows = [line[-5:-3] for line in shown if line[1:5] == ["at", "a", "prevalence", "of"]]
    values = [[f"{at['at_prevalence'][of]:.1%}" for at in (of_images, of_patients)] for of in ("ppv", "npv")]
    assert rows == values and values[0][0] != values[1][0]


@pytest.mark.parametrize(
    "more, message",
    [
        (("--per-patient", "median"), "--per-patient median: give mean or max"),
        (("--per-patient", "mean", "--group-column", "none"), "nothing says which test images belong together"),
        (("--per-patient", "mean", "--group-column", "twin"), "30 of 30 groups of the test images have images of diff"),
    ],
)
def test_eval_refuses_what_no_patient_can_be_scored_by(vladapt, fitted, tmp_path, more, message):
    run, _ = fitted
    data = draw(tmp_path / "other", 60, True)
    lines = (data / "labels.csv").read_text().splitlines()
    twins = [f"{line},T{int(line.split('/')[1].split('-')[0]) // 2}" for line in lines[1:]]
    (data / "labels.csv").write_text("\n".join([f"{lines[0]},twin", *twins]))
    refused = vladapt("eval", run, "--data", data, *more)
    assert refused.code != 0 and message in refused.error


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    from vladapt.core.engine.export import export

    folder = tmp_path_factory.mktemp("exported") / "model"
    export(fitted[0], folder, per_patient="max", device="cpu")
    return folder


@pytest.mark.thorough
def test_an_export_answers_patients_as_the_run_does(vladapt, fitted, exported):
    run, new = fitted
    images = sorted((new / "images").glob("1-*.png"))
    how = ("--per-patient", "max", "--coverage", 0.9, "--group-column", r"stem:^(\d+)-", "--json")
    (wanted,) = vladapt("predict", run, *images, *how).json["predictions"]
    script = (sys.executable, exported / "predict.py", *images, "--per-patient", "--coverage", "0.9")
    row = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert row["images"] == list(map(str, images)) and row["id"] == "patient"
    assert [row[key] for key in ("label", "set", "threshold")] == [wanted[key] for key in ("label", "set", "threshold")]
    assert row["confidence"] == pytest.approx(wanted["confidence"], abs=1e-4)
    plain = subprocess.run(script[:-3], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(plain) == EACH and row["threshold"] != json.loads(plain[0])["threshold"]

    served = ServedExport(exported, Serving())
    samples, _ = served.samples(images)
    for sample in samples:
        served.prepare(sample)
    served.answer(samples)
    wishes = Wishes(per_patient="max", coverage=0.9)
    served.check(wishes)
    (answer,) = served.rows(samples, [], wishes)["predictions"]
    assert answer["confidence"] == pytest.approx(row["confidence"], abs=1e-5)
    assert [answer[key] for key in ("id", "images", "set")] == [row[key] for key in ("id", "images", "set")]
    assert len(served.rows(samples, [], Wishes())["predictions"]) == EACH
    with pytest.raises(ConfigError, match=r"^--per-patient mean: this export cannot do that; give max$"):
        served.check(Wishes(per_patient="mean"))


@pytest.mark.thorough
def test_exports_without_patients_are_as_before(fitted, exported, tmp_path):
    from vladapt.core.engine.export import export

    facts = json.loads((exported / "export.json").read_text())
    plain = export(fitted[0], tmp_path / "plain", device="cpu").facts
    assert "per_patient" not in plain and {**facts, "per_patient": None, "sha256": 0} == {
        **json.loads(json.dumps(plain)),
        "per_patient": None,
        "sha256": 0,
    }


def test_damaged_exports_are_refused(fitted, exported, tmp_path):
    from vladapt.core.engine.export import export

    with pytest.raises(ConfigError, match=r"^--per-patient median: give mean or max$"):
        export(fitted[0], tmp_path / "median", per_patient="median", device="cpu")
    facts = json.loads((exported / "export.json").read_text())
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    for wrong in ({"how": "least"}, {"temperature": [0.0, 1.0]}, {"coverage": {"0.9": [1]}}, {"offset": "no"}):
        changed = {**facts, "per_patient": {**facts["per_patient"], **wrong}}
        (damaged / "export.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="damaged, per_patient is not usable"):
            ServedExport(damaged, Serving())


def test_files_are_grouped_by_the_table_beside_them_or_by_their_names(vladapt, fitted):
    run, new = fitted
    files = sorted((new / "images").iterdir())[:12]
    by_name = vladapt("predict", run, *files, "--per-patient", "mean", "--group-column", r"stem:^(\d+)-", "--json").json
    assert len(by_name["predictions"]) == 3


def test_a_run_without_patients_is_refused(vladapt, run, colours):
    refused = vladapt("predict", run, colours, "--per-patient", "mean")
    assert (
        refused.code == 1
        and "--per-patient: the calibration rows of this run are of one image per patient" in refused.error
    )
    refused = vladapt("predict", run, colours, "--per-patient", "max")
    assert "--per-patient max: for two classes or several labels; give mean" in refused.error


def test_the_images_of_a_request_are_those_of_one_patient_where_that_is_asked(fitted):
    run, new = fitted
    opened = Run.open(run)
    served = ServedRun(Use(opened, device="cpu"), task_of_run(opened), Serving())
    samples, _ = served.samples(sorted((new / "images").iterdir())[:3])
    for sample in samples:
        served.prepare(sample)
    served.answer(samples)
    wishes = Wishes(per_patient="max")
    served.check(wishes)
    (row,) = served.rows(samples, [], wishes)["predictions"]
    assert row["id"] == "patient" and row["images"] == [sample.id for sample in samples]
    assert len(served.rows(samples, [], Wishes())["predictions"]) == 3
