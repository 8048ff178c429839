"""`eval` on other data says what moved, and compares two runs on the same images by DeLong's test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

WIDTH = 8


def write_rows(path: Path, seed: int, rows: int, sick: float, apart: float = 2.0, away: float = 0.0, classes=2) -> Path:
    """Rows of classes that are told by their first columns.

    Args:
        sick: share of the second class; the others share the rest.
        apart: distance of a class from the others.
        away: how far all rows lie from those of the fit, in the last column.
    """
    rng = np.random.default_rng(seed)
    shares = [(1 - sick) / (classes - 1)] * classes
    shares[1] = sick
    labels = rng.choice(classes, rows, p=shares)
    features = rng.normal(size=(rows, WIDTH))
    features[np.arange(rows), labels] += apart
    features[:, -2] += 4.0
    features[:, -1] += away
    names = np.array(["healthy", "sick", "other"][:classes])
    of = {"image_features": features.astype("f4"), "labels": labels, "text_features": np.eye(WIDTH)[:classes]}
    np.savez(path, **of, class_names=names)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two and of three classes by name, each fitted once."""
    import vladapt

    place = tmp_path_factory.mktemp("runs")
    two = write_rows(place / "two.npz", 0, 400, sick=0.5)
    three = write_rows(place / "three.npz", 0, 400, sick=0.3, apart=1.0, classes=3)

    def fitted(rows, **how):
        return vladapt.fit(
            features=str(rows), out=str(place / "out"), **{"adapter": "nearest-mean", "shots": 16, **how}
        ).run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(place / "cache"))
        texts = fitted(two, adapter="zero-shot", shots=0)
        return {"two": fitted(two), "texts": texts, "three": fitted(three), "other three": fitted(three, seed=5)}


def test_another_place_where_all_moved(vladapt, runs, tmp_path):
    run = runs["two"]
    there = write_rows(tmp_path / "there.npz", 1, 500, sick=0.1, apart=0.6, away=9.0)
    told = vladapt("eval", run, "--features", there, "--out", tmp_path / "out", "--json").json
    shift, findings = told["dataset_shift"], told["findings"]["scores"]["sick"]
    of = shift["prevalence"]["sick"]
    labels = np.load(there)["labels"]
    assert list(shift["prevalence"]) == ["sick"] and of["present"] == int(labels.sum()) and of["images"] == 500
    assert of["share"] == pytest.approx(labels.mean()) and of["interval"][0] < of["share"] < of["interval"][1]
    at_fit = json.loads((run / "metrics.json").read_text())["findings"]["scores"]["sick"]
    assert of["share_at_fit"] == pytest.approx(at_fit["present"] / at_fit["images"])
    low, high = of["difference_interval"]  # MOVER, of the exact limits
    (l1, _), (_, u2), d = of["interval"], of["interval_at_fit"], of["difference"]
    assert d == pytest.approx(of["share"] - of["share_at_fit"])
    assert low == pytest.approx(d - np.hypot(of["share"] - l1, u2 - of["share_at_fit"])) and high < 0
    agreement = shift["calibration"]["sick"]
    for name in ("slope", "slope_interval", "intercept", "intercept_interval"):
        assert agreement[name] == findings[name] and agreement[f"{name}_at_fit"] == at_fit[name]
    assert agreement["slope_interval"][1] < 1
    assert shift["unlike"] > 0.5 and shift["unlike_interval"][0] > 0.05
    notes = " ".join(told["notes"])
    assert "“sick” is less frequent here" in notes and "of “sick” are too extreme here: calibration slope" in notes
    assert "of the images are unlike those of the fit" in notes
    assert "What moved since the fit" in (tmp_path / "out" / "report.html").read_text()
    shown = vladapt("eval", run, "--features", there).out
    assert "what moved since the fit" in shown.lower() and "Share of “sick”" in shown


def test_of_data_like_those_of_the_fit_nothing_is_said_to_have_moved(vladapt, runs, tmp_path):
    run = runs["two"]
    alike = write_rows(tmp_path / "alike.npz", 3, 400, sick=0.5)
    told = vladapt("eval", run, "--features", alike, "--json").json
    assert not told["dataset_shift"]["prevalence"]["sick"]["difference_interval"][0] > 0
    assert told["dataset_shift"]["unlike"] < 0.15
    assert not any("frequent here" in note or "unlike those" in note for note in told["notes"])
    assert "dataset_shift" not in vladapt("eval", run, "--json").json  # its own test rows


def test_of_three_classes_each_has_its_share_and_answers_their_calibration(vladapt, runs, tmp_path):
    run = runs["three"]
    there = write_rows(tmp_path / "there.npz", 1, 400, sick=0.8, apart=0.5, classes=3)
    shift = vladapt("eval", run, "--features", there, "--json").json["dataset_shift"]
    assert list(shift["prevalence"]) == ["healthy", "sick", "other"]
    assert shift["prevalence"]["sick"]["difference_interval"][0] > 0 > shift["prevalence"]["other"]["difference"]
    assert list(shift["calibration"]) == [""] and shift["calibration"][""]["slope_interval"][1] < 1


def test_two_runs_are_compared_on_the_same_rows(vladapt, runs, tmp_path):
    run, other = runs["two"], runs["texts"]
    data = write_rows(tmp_path / "there.npz", 1, 400, sick=0.4, apart=1.0)
    told = vladapt("eval", run, "--features", data, "--against", other, "--out", tmp_path / "out", "--json").json
    pair = told["against"]["pairs"]["sick"]
    assert told["against"]["other"] == other.name and told["against"]["mean"] is None
    assert pair["run"] == pytest.approx(told["findings"]["scores"]["sick"]["auroc"])
    reverse = vladapt("eval", other, "--features", data, "--against", run, "--json").json["against"]["pairs"]["sick"]
    assert reverse["difference"] == pytest.approx(-pair["difference"]) and reverse["other"] == pair["run"]
    assert reverse["p_value"] == pytest.approx(pair["p_value"])
    half = (pair["interval"][1] - pair["interval"][0]) / 2
    assert pair["p_value"] == pytest.approx(2 * norm.sf(abs(pair["difference"]) / (half / norm.ppf(0.975))), rel=1e-6)
    assert any("DeLong" in note for note in told["notes"])
    assert f"Against {other.name}" in (tmp_path / "out" / "report.html").read_text()
    itself = vladapt("eval", run, "--against", run, "--json").json["against"]["pairs"]["sick"]
    assert itself["p_value"] == 1 and itself["difference"] == 0 and itself["interval"][0] < 0


def test_of_three_classes_each_pair_is_adjusted_and_the_mean_is_tested(vladapt, runs):
    run, other = runs["three"], runs["other three"]
    against = vladapt("eval", run, "--against", other, "--json").json["against"]
    assert list(against["pairs"]) == ["healthy", "sick", "other"]
    ps = sorted(pair["p_value"] for pair in against["pairs"].values())
    assert max(pair["p_holm"] for pair in against["pairs"].values()) >= ps[-1]
    assert min(pair["p_holm"] for pair in against["pairs"].values()) == pytest.approx(min(1, 3 * ps[0]))
    assert against["mean"]["difference"] == pytest.approx(np.mean([p["difference"] for p in against["pairs"].values()]))
    assert "in the fit" in against["in_its_fit"]


def test_what_cannot_be_compared_is_refused_in_one_line(vladapt, runs, tmp_path):
    run, three = runs["two"], runs["three"]
    outcome = vladapt("eval", run, "--against", three)
    assert outcome.code == 2 and "must have the same classes, and that run differ in “other”" in outcome.error
    outcome = vladapt("eval", run, "--against", tmp_path / "no-run")
    assert outcome.code == 1 and "no-run" in outcome.error and outcome.out == ""


def test_runs_of_images_are_compared_on_the_test_images_of_the_first(vladapt, run, fit, colours):
    other = fit("--data", colours, "--adapter", "nearest-mean", "--seed", 3, "--out", "others", "--json").json["run"]
    told = vladapt("eval", run, "--against", other, "--json").json
    ids = set(json.loads((run / "run.json").read_text())["splits"]["test"])
    assert told["test_images"] == len(ids) and set(told["against"]["pairs"]) == {"blue", "green", "red"}
    theirs = vladapt("eval", other, "--data", colours, "--split", "all", "--against", run, "--json").json
    assert theirs["test_images"] == 36 and theirs["against"]["other"] == run.name
    assert f"of the {len(ids)} images were in the fit" in told["against"]["in_its_fit"]
