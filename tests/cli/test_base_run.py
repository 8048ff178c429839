"""`--resource base=RUN`: a fit that starts from a fitted run, used again, moved, and given what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

FROM_TEXT = ("--adapter", "stat-a", "--shots", "0", "--json")
TRANSCLIP = ("--adapter", "transclip", "--set", "adapter.mode=zero-shot", "--shots", "0", "--json")


@pytest.fixture
def rows(tmp_path):
    """rows(name, classes=..., width=..., seed=...) -> a features file, 60 rows, text often wrong."""

    def write(name="rows.npz", classes=("a", "b", "c"), width=16, seed=0) -> Path:
        rng = np.random.default_rng(seed)
        labels = np.arange(60) % len(classes)
        centres = rng.normal(size=(len(classes), width))
        np.savez(
            tmp_path / name,
            image_features=(centres[labels] + 0.8 * rng.normal(size=(60, width))).astype(np.float32),
            labels=labels,
            text_features=(centres + 6 * rng.normal(size=(len(classes), width))).astype(np.float32),
            class_names=np.array(classes),
        )
        return tmp_path / name

    return write


@pytest.mark.thorough(but=("stat-a",))
@pytest.mark.parametrize("method", [FROM_TEXT, TRANSCLIP], ids=["stat-a", "transclip"])
def test_of_features(vladapt, rows, method):
    """From a fitted adapter the answers are others, from zero-shot the same; and so are those of a run used again."""
    common = ("fit", "--features", rows())
    base = vladapt(*common, "--adapter", "linear-probe", "--shots", "8", "--json").json["run"]
    text = vladapt(*common, "--adapter", "zero-shot", "--shots", "0", "--json").json["run"]
    plain = vladapt(*common, *method).json
    same = vladapt(*common, *method, "--resource", f"base={text}").json
    other = vladapt(*common, *method, "--resource", f"base={base}").json
    assert same["adapted"] == pytest.approx(plain["adapted"], abs=1e-4)
    assert other["adapted"]["accuracy"] > plain["adapted"]["accuracy"]
    for split in ("test", "all"):  # the latter has images outside the unlabelled set
        asked = [vladapt("eval", each["run"], "--split", split, "--json") for each in (same, other, plain)]
        scores = [each.json["adapted"] for each in asked]
        assert scores[0] == pytest.approx(scores[2], abs=1e-4) and scores[1]["accuracy"] > scores[2]["accuracy"]
    told = json.loads((Path(other["run"]) / "run.json").read_text())["base"]
    assert told["adapter"] == "linear-probe" and len(told["sha256"]) == 64


@pytest.mark.thorough
def test_in_a_comparison(vladapt, rows):
    common = ("--features", rows())
    base = vladapt("fit", *common, "--adapter", "linear-probe", "--shots", "8", "--json").json["run"]
    how = ("--shots", "2", "--seeds", "1", "--splits", "2", "--out", "c", "--json")
    compare = ("compare", *common, "--adapters", "stat-a", *how)
    plain, other = vladapt(*compare).json, vladapt(*compare, "--resource", f"base={base}").json
    accuracy = [[row["accuracy"] for row in each["rows"] if row["adapter"] == "stat-a"] for each in (plain, other)]
    assert accuracy[1] > accuracy[0]


@pytest.mark.parametrize("base", [("tip-adapter", "adapter.views=0"), ("full", "adapter.epochs=1")], ids=lambda b: b[0])
def test_of_images(vladapt, fit, colours, base):
    """New images are asked of both, also where the base has towers of its own."""
    started_from = fit("--data", colours, "--adapter", base[0], "--set", base[1], "--json").json["run"]
    common = ("--data", colours, *FROM_TEXT)
    plain, other = fit(*common).json["run"], fit(*common, "--resource", f"base={started_from}").json["run"]
    new = [vladapt("predict", run, colours / "red", "--json").json["predictions"] for run in (plain, other)]
    assert len(new[1]) == 12 and new[0] != new[1]
    assert vladapt("eval", other, "--split", "all", "--json").code == 0


def test_runs_that_were_moved(vladapt, rows, tmp_path):
    """A base is found where it was, beside the run that started from it, or where the user says it lies."""
    common = ("fit", "--features", rows())
    base = Path(vladapt(*common, "--adapter", "linear-probe", "--shots", "8", "--json").json["run"]).resolve()
    run = Path(vladapt(*common, *FROM_TEXT, "--resource", f"base={base}").json["run"]).resolve()
    expected = vladapt("eval", run, "--json").json["adapted"]
    (tmp_path / "kept").mkdir()
    beside = shutil.move(base, tmp_path / "kept" / base.name)
    outcome = vladapt("eval", run, "--json")
    assert "no such file or folder; if it was moved, give its new path" in outcome.error
    assert base.name in outcome.error and outcome.code != 0
    assert vladapt("eval", run, "--resource", f"base={beside}", "--json").json["adapted"] == expected
    moved = shutil.move(run, tmp_path / "kept" / run.name)
    assert vladapt("eval", moved, "--json").json["adapted"] == expected
    another = vladapt(*common, "--adapter", "linear-probe", "--shots", "2", "--json").json["run"]
    outcome = vladapt("eval", moved, "--resource", f"base={another}", "--json")
    assert "not the run that this one started from ('linear-probe' at" in outcome.error


def test_what_is_no_base_is_one_line(vladapt, rows, tmp_path):
    here = ("fit", "--features", rows())
    base = vladapt(*here, "--adapter", "linear-probe", "--shots", "4", "--json").json["run"]
    started = vladapt(*here, *FROM_TEXT, "--resource", f"base={base}").json["run"]
    plain = vladapt(*here, *FROM_TEXT).json["run"]
    renamed, wider = rows("renamed.npz", ("a", "b", "d")), rows("wider.npz", width=20)
    more = rows("more.npz", ("a", "b", "c", "d"))
    (tmp_path / "empty").mkdir()
    cases = [
        ((*here, *FROM_TEXT, "--resource", "base=nowhere"), "base=nowhere: no such file or folder"),
        ((*here, *FROM_TEXT, "--resource", "base=empty"), "empty: no run.json there"),
        ((*here, *FROM_TEXT, "--resource", f"base={started}"), "it started from another run itself"),
        ((*here, "--adapter", "ape", "--resource", f"base={base}"), "--resource base: ape does not use it"),
        (("fit", "--features", renamed, *FROM_TEXT, "--resource", f"base={base}"), "(it lacks 'd')"),
        (("fit", "--features", more, *FROM_TEXT, "--resource", f"base={base}"), "(it lacks 'd')"),
        ((*here, *FROM_TEXT, "--classes", "a,b", "--resource", f"base={base}"), "(it also has 'c')"),
        (
            ("fit", "--features", wider, *FROM_TEXT, "--resource", f"base={base}"),
            "(16 wide; these: 20)",
        ),
        (("eval", plain, "--resource", f"base={base}"), "stat-a, once fitted, does not use it"),
    ]
    for arguments, words in cases:
        outcome = vladapt(*arguments)
        assert outcome.code != 0 and words in outcome.error, (arguments, outcome.err)


def test_classes_in_another_order_are_put_in_order(vladapt, rows):
    """By their names: the base has them as its file has."""
    file = rows()
    base = vladapt("fit", "--features", file, "--adapter", "linear-probe", "--shots", "8", "--json").json["run"]
    with np.load(file) as stored:
        turned = dict(stored)
    order = np.array([2, 0, 1])
    turned["labels"] = np.argsort(order)[turned["labels"]]
    turned["text_features"], turned["class_names"] = turned["text_features"][order], turned["class_names"][order]
    np.savez(file.with_name("turned.npz"), **turned)
    runs = [
        vladapt("fit", "--features", each, *FROM_TEXT, "--resource", f"base={base}").json["run"]
        for each in (file, file.with_name("turned.npz"))
    ]
    scores = [vladapt("eval", run, "--split", "all", "--json").json["adapted"] for run in runs]
    assert scores[0]["accuracy"] == pytest.approx(scores[1]["accuracy"], abs=0.02)


def test_a_base_that_saw_test_images_is_told(vladapt, rows):
    common = ("fit", "--features", rows(), "--set", "split_seed=1")
    base = vladapt("fit", "--features", rows(), "--adapter", "linear-probe", "--shots", "8", "--json").json["run"]
    told = [vladapt(*each, *FROM_TEXT[:-1], "--resource", f"base={base}").out for each in (common, common[:3])]
    assert "test images were used to fit the run" in told[0] and "fit both on the same split" in told[0]
    assert "were used to fit the run" not in told[1]
