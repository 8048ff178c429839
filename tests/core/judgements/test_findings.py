"""Findings: which of two classes is one, where it is called present, and what that comes to on test images."""

from __future__ import annotations

import json
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vladapt
from vladapt.core.contracts.run_info import FittedRun, RunInfo
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.judgements.finding_curves import FindingScores, default_finding, finding_of
from vladapt.core.judgements.operating_point import OperatingPoint, OperatingPoints, thresholds_of

PATIENTS, IMAGES, DIM = 160, 2, 12


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Features of patients with two images each: "two" classes, a third of the patients sick; "several" labels, which
    overlap; both with patients named. "images": the first, where no patient is known."""
    folder, generator = tmp_path_factory.mktemp("findings"), np.random.default_rng(0)
    sick = np.repeat(np.arange(PATIENTS) % 3 == 0, IMAGES)
    old = np.repeat(generator.random(PATIENTS) < 0.4, IMAGES)
    own = np.repeat(generator.normal(size=(PATIENTS, DIM)), IMAGES, axis=0)
    rows = generator.normal(size=(len(sick), DIM)) + own + 3 * np.outer(sick, np.eye(DIM)[0])
    rows += 2 * np.outer(old, np.eye(DIM)[1])
    patients = np.repeat([f"patient {n}" for n in range(PATIENTS)], IMAGES)
    split = np.array(["train", "train", "val", "test", "test"])[np.arange(len(sick)) // IMAGES % 5]
    shared = {"image_features": rows.astype("f4"), "split": split, "text_features": np.eye(DIM, dtype="f4")[[2, 0]]}
    two = {"labels": sick.astype(int), "class_names": np.array(["healthy", "sick"])}
    several = {"labels": np.stack([sick, old], 1).astype("f4"), "class_names": np.array(["sick", "old"])}
    made = {"two": {**two, "groups": patients}, "several": {**several, "groups": patients}, "images": two}
    for name, arrays in made.items():
        np.savez(folder / f"{name}.npz", **shared, **arrays)
    return {name: str(folder / f"{name}.npz") for name in made}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(path, **options):
    options = {"adapter": "ridge", "shots": "all", **options}
    return vladapt.fit(features=path, **options)


@pytest.fixture(scope="module")
def fitted(files, tmp_path_factory):
    """`fitted(**options)`: a fit on two classes, made once; for reading only."""

    @cache
    def once(**options):
        return fit(files["two"], out=str(tmp_path_factory.mktemp("fitted") / "run"), **options)

    return once


@pytest.mark.parametrize(
    ("counts", "finding", "reason"),
    [
        ({"healthy": 5, "sick": 90}, "sick", "healthy"),
        ({"Tumor": 90, "No_Tumor": 5}, "Tumor", "No_Tumor"),
        ({"normal, benign": 3, "malignant": 9}, "malignant", "benign"),
        ({"abnormal": 9, "other": 3}, "other", "rarer"),
        ({"no finding": 3, "normal": 9}, "no finding", "rarer"),
        ({"cat": 7, "dog": 7}, "dog", "second"),
    ],
)
def test_the_finding_is_what_no_name_denies_or_the_rarer_class(counts, finding, reason):
    assert default_finding(counts)[0] == finding and reason in default_finding(counts)[1]


def test_two_classes_have_curves_and_no_operating_point_unasked(fitted):
    result = fitted()
    found = FindingScores.from_json(result.metrics)
    score = found.scores["sick"]
    assert found.finding == "sick" and list(found.scores) == ["sick"] and found.calibrated
    assert score.auroc == pytest.approx(result.metrics["adapted"]["auroc"], abs=1e-6)
    assert score.auroc_interval[0] < score.auroc < score.auroc_interval[1]
    assert score.average_precision_interval[0] <= score.average_precision <= score.average_precision_interval[1]
    assert 0 < score.brier < 0.25 and score.slope_interval[0] < score.slope < score.slope_interval[1]
    assert all(len(values) <= 50 for values in (*score.ranking.values(), *score.decision.values()))
    assert (
        "operating_point" not in result.metrics and thresholds_of(FittedRun(result.run, metrics=result.metrics)) == {}
    )
    page = (result.run / "report.html").read_text()
    assert "“sick” as a finding" in page and "ROC curve" in page and "Decision curve" in page
    assert "since “healthy” says that there is none" in page
    assert not any("finding" in note or "perating point" in note for note in result.notes)


def test_several_labels_are_a_finding_each(files):
    found = FindingScores.from_json(fit(files["several"]).metrics)
    assert found.finding is None and list(found.scores) == ["sick", "old"]


def test_many_classes_are_no_findings(files, tmp_path):
    arrays = dict(np.load(files["two"]))
    arrays |= {
        "labels": arrays["labels"] + (np.arange(len(arrays["labels"])) % 4 == 0),
        "text_features": np.eye(3, DIM),
    }
    np.savez(tmp_path / "three.npz", **{**arrays, "class_names": np.array(["a", "b", "c"])})
    assert "findings" not in fit("three.npz").metrics
    for option in ({"operating_point": "sensitivity=0.9"}, {"finding": "a"}):
        with pytest.raises(
            ConfigError, match=r"is for two classes or several labels, and these are 3 classes; omit it$"
        ):
            fit("three.npz", **option)


def test_an_operating_point_is_chosen_shown_and_kept(files):
    result = fit(files["two"], operating_point="sensitivity=0.9", prevalence=0.02)
    kept = OperatingPoints.from_json(json.loads((result.run / "metrics.json").read_text()))
    point = kept.points["sick"]
    assert kept.units == "group" and point.chosen_on == 22 and point.with_it + point.without_it == 64
    assert point.reached[0] < 0.9 < point.reached[1] and point.needed["sensitivity"] > point.with_it
    true, false, missed, _ = point.rates.counts
    assert point.rates.sensitivity == pytest.approx(true / (true + missed)) and point.rates.ppv > 0.5
    assert point.at_prevalence.ppv < point.rates.ppv and point.at_prevalence.ppv_interval[0] < point.at_prevalence.ppv
    odds = point.threshold / (1 - point.threshold)
    assert point.net_benefit == pytest.approx((true - odds * false) / sum(point.rates.counts))
    assert thresholds_of(FittedRun(result.run, metrics=result.metrics)) == {"sick": point.threshold}
    assert kept.to_json() == {
        "operating_point": json.loads((result.run / "metrics.json").read_text())["operating_point"]
    }

    notes = " ".join(result.notes)
    assert "an image is called “sick” (the finding, since “healthy” says that there is none)" in notes
    assert f"takes {point.needed['sensitivity']} test groups with it; there are {point.with_it}" in notes
    page = (result.run / "report.html").read_text()
    assert "Operating point: sensitivity of 90.0%" in page and f"{true} of {true + missed}" in page
    assert "at a prevalence of 0.02" in page


def test_the_operating_point_is_marked_on_the_curves(fitted):
    result = fitted(operating_point="sensitivity=0.9")
    rates = OperatingPoints.from_json(result.metrics).points["sick"].rates
    page, plain = ((each.run / "report.html").read_text() for each in (result, fitted()))
    at = r"""<circle class="mark" r="4.5" cx="([\d.]+)" cy="([\d.]+)">"""
    shown = [((float(x) - 46) / 238, 1 - (float(y) - 8) / 170) for x, y in re.findall(at, page)]
    roc, precision = (1 - rates.specificity, rates.sensitivity), (rates.sensitivity, rates.ppv)
    assert shown == [pytest.approx(roc), pytest.approx(precision)]
    assert f"{rates.ppv:.3g} at {rates.sensitivity:.3g}" in page and "Ring: the operating point" in page
    low, high = rates.intervals["specificity"]
    bar = re.search(r"""<path class="mark" d="M([\d.]+) [\d.]+H([\d.]+)M""", page)
    assert [(float(x) - 46) / 238 for x in bar.groups()] == pytest.approx([1 - high, 1 - low])
    assert "Ring" not in plain and not re.findall(at, plain)


def test_every_option_changes_what_is_said(fitted):
    def told(**options):
        metrics = fitted(**{"operating_point": "sensitivity=0.9", **options}).metrics
        return metrics["operating_point"], metrics["findings"]["finding"]

    (plain, finding), (point,) = told(), plain_points(told()[0])
    assert told(operating_point="specificity=0.8")[0]["points"]["sick"]["chosen_on"] > point["chosen_on"]
    one, assured = (told(operating_point="sensitivity=0.8", **more)[0] for more in ({}, {"assured": True}))
    assert assured["points"]["sick"]["threshold"] < one["points"]["sick"]["threshold"]
    assert told(prevalence=0.1)[0]["points"]["sick"]["at_prevalence"] and not point["at_prevalence"]
    other, named = told(finding="healthy")
    assert (finding, named) == ("sick", "healthy") and list(other["points"]) == ["healthy"] != list(plain["points"])


def plain_points(told):
    return list(told["points"].values())


def test_patients_count_once(files, fitted):
    by_patient = fitted(operating_point="sensitivity=0.9").metrics
    by_image = fit(files["images"], operating_point="sensitivity=0.9").metrics
    one, other = (metrics["operating_point"]["points"]["sick"] for metrics in (by_patient, by_image))
    assert one["chosen_on"] * IMAGES == other["chosen_on"] and one["with_it"] * IMAGES == other["with_it"]
    widths = [high - low for low, high in (each["rates"]["intervals"]["specificity"] for each in (one, other))]
    assert widths[0] > widths[1]


def test_labels_without_enough_patients_have_no_operating_point(files, tmp_path):
    arrays = dict(np.load(files["several"]))
    rare = arrays["labels"].copy()
    rare[np.flatnonzero(rare[:, 1])[6:], 1] = 0
    np.savez(tmp_path / "rare.npz", **{**arrays, "labels": rare})
    result = fit("rare.npz", operating_point="sensitivity=0.9")
    kept = OperatingPoints.from_json(result.metrics)
    assert list(kept.points) == ["sick"] and re.search("needs 9 patients .* there are [0-3]$", kept.refused["old"])
    assert any(note.startswith("No operating point for “old”") for note in result.notes)
    with pytest.raises(DataError, match=r"--operating-point specificity=0.999: specificity 0.999: needs 999 patients"):
        vladapt.evaluate(result.run, operating_point="specificity=0.999")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shots": 4},
            "takes 9 labelled images .* with “sick” to choose a threshold from, and this fit has at most 4;",
        ),
        ({"assured": True}, "takes 29 labelled images .* and this fit has at most 22; give more"),
        ({"operating_point": "sensitivity=0.99"}, "takes 99 labelled"),
        ({"operating_point": "sensitivity"}, "give sensitivity=SHARE or specificity=SHARE, above 0 and below 1"),
        ({"operating_point": "accuracy=0.9"}, "give sensitivity=SHARE"),
        ({"operating_point": "sensitivity=95"}, "give sensitivity=SHARE"),
        ({"operating_point": None, "prevalence": 0.1}, "--prevalence 0.1: is of an operating point; give --operating"),
        ({"operating_point": None, "assured": True}, "--assured: is of an operating point"),
        ({"finding": "ill"}, "--finding ill: the classes are “healthy” and “sick”; name one of them"),
    ],
)
def test_what_cannot_be_is_refused_before_the_fit(files, monkeypatch, options, message):
    monkeypatch.setattr("vladapt.core.tasks.classification.task.fit_adapter", None)
    with pytest.raises(ConfigError, match=message):
        fit(files["two"], **{"operating_point": "sensitivity=0.9", **options})


def test_an_evaluation_uses_the_threshold_of_the_run_unless_it_is_given_another(fitted):
    run = fitted(operating_point="sensitivity=0.9").run
    kept = json.loads((run / "metrics.json").read_text())["operating_point"]
    again = vladapt.evaluate(run)
    assert again["operating_point"] == kept
    other = vladapt.evaluate(run, operating_point="specificity=0.9", prevalence=0.1)["operating_point"]
    assert other["points"]["sick"]["threshold"] != kept["points"]["sick"]["threshold"] and other["prevalence"] == 0.1
    # not from the rows that are evaluated
    val = vladapt.evaluate(run, split="val")["operating_point"]["points"]["sick"]
    assert val["threshold"] == kept["points"]["sick"]["threshold"] and val["rates"] != kept["points"]["sick"]["rates"]
    assert vladapt.evaluate(run, finding="healthy")["findings"]["finding"] == "healthy"


def test_a_run_of_before_is_given_one_later(fitted):
    run = fitted().run
    assert "operating_point" not in vladapt.evaluate(run)
    assert (
        vladapt.evaluate(run, operating_point="sensitivity=0.9")["operating_point"]["points"]["sick"]["chosen_on"] == 22
    )


def test_the_finding_of_a_run_without_a_record_follows_from_its_classes():
    def of(names, counts, metrics=None, kind="labels"):
        info = RunInfo.from_json({"class_names": names, "data": {"kind": kind, "counts": {"train": counts}}})
        return finding_of(FittedRun(None, info, metrics or {}))

    assert of(["a", "b"], {"a": 3, "b": 9}) == "a"
    assert of(["a", "b"], {"a": 3, "b": 9}, {"findings": {"finding": "b", "reason": "as --finding says"}}) == "b"
    assert of(["a", "b", "c"], {}) is None and of(["a", "b"], {}, kind="multilabel") is None


def test_the_terminal_shows_few_of_many_findings():
    rates = {"threshold": 0.5, "sensitivity": 0.5, "specificity": 1.0, "ppv": None, "npv": 0.5, "counts": [1, 0, 1, 2]}
    rates |= {"intervals": {"sensitivity": [0.1, 0.9], "specificity": [0.5, 1.0], "npv": [0.2, 0.8]}}
    none = dict.fromkeys(("with_it", "without_it", "needed", "at_prevalence", "net_benefit", "of_everyone"))
    point = {"threshold": 0.5, "chosen_on": 30, "reached": [0.8, 0.9], "rates": rates, **none}
    told = {"wanted": "sensitivity=0.9", "assured": True, "prevalence": None, "units": "image", "reason": ""}
    record = OperatingPoints.from_json(
        {"operating_point": {**told, "points": dict.fromkeys("abcdef", point), "refused": {}}}
    )
    assert record.table().row_count == 4 * 5 and len(record.section().rows) == 6 * 5
    assert record.title.endswith("with 95% assurance") and record.points["a"].rows()[2][:3] == (
        "Positive predictive value",
        "–",
        "",
    )


def test_without_test_labels_the_threshold_is_kept_alone(files, tmp_path):
    generator, rows = np.random.default_rng(0), 40
    probs = torch.from_numpy(generator.random((rows, 1)))
    calibration = SimpleNamespace(
        labels=torch.arange(rows) % 2, groups=None, row_probabilities=torch.cat([1 - probs, probs], 1)
    )
    judged = SimpleNamespace(
        at="fit", metrics={"findings": {"finding": "sick", "reason": "r"}}, class_names=("healthy", "sick")
    )
    judged.calibration, judged.labelled, judged.use = calibration, False, None
    record = OperatingPoint(operating_point="sensitivity=0.9").compute(judged)
    assert record.points["sick"].rates is None and record.points["sick"].chosen_on == 20
    assert record.table() is None and record.points["sick"].rows() == []
