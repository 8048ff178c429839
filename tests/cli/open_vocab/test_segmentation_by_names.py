"""`fit`, `eval` and `predict` of segmentation by names, as a user runs them on a config of their own."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.data import read_segmentation


@pytest.fixture(scope="module")
def data(squares):
    return squares()


@pytest.fixture(scope="module")
def fitted(command, tiny, data):
    """What `fit --json` says of a segmentor that finds squares."""
    return command("fit", "--config", tiny("segmentation"), "--data", data, "--epochs", 8, "--json")


@pytest.fixture(scope="module")
def run(fitted):
    return fitted.json["run"]


def test_fit_and_eval_agree_on_miou_and_accuracy(command, fitted, run):
    made = fitted.json
    assert made["task"] == "segmentation" and made["zero_shot"] is None
    assert set(made["adapted"]) == {"mIoU", "pixel_accuracy", "mean_accuracy"} and made["adapted"]["mIoU"] > 0.35
    assert command("eval", run, "--json").json["adapted"] == made["adapted"]


def test_the_report_shows_marked_and_found(place, run):
    page = (place / run / "report.html").read_text()
    assert "Left as marked, right as found." in page and "EncoderDecoder" in page and "pixel accuracy" in page


def test_predict_writes_pictures_and_masks_that_read_back(command, run, data, place):
    made = command("predict", run, data / "images", "--out", "maps", "--json").json
    out = place / "maps"
    shutil.copytree(data / "images", out / "images")
    back = read_segmentation(out)
    assert back.class_names == ("background", "red square", "green square", "blue square") and len(back.items) == 19
    mask = back.load_mask(back.items[0])
    shares = made["predictions"][0]["shares"]
    assert {back.class_names[n]: round(float((mask == n).mean()), 5) for n in np.unique(mask)} == shares
    assert Image.open(out / "pictures" / "01.png").width >= 300


def test_new_names_keep_the_learned_background(command, run, data):
    image = data / "images" / "01.png"
    rows = command("predict", run, image, "--classes", "crimson box, lake", "--json").json["predictions"]
    assert set(rows[0]["shares"]) <= {"background", "crimson box", "lake"} and rows[0]["shares"]["background"] > 0.3
    found = command("predict", run, image, "--classes", "crimson box, lake")
    assert found.code == 0 and found.err == "" and "background" in found.out


def test_eval_with_some_of_the_names_shows_both_lists(command, run):
    found = command("eval", run, "--classes", "red square")
    assert found.code == 2
    assert (
        "(background, red square, green square, blue square)" in found.error
        and "(background, red square)" in found.error
    )


def test_novel_classes_are_scored_beside_the_base_classes(command, tiny, data, place):
    arguments = ("--config", tiny("segmentation"), "--data", data, "--epochs", 1, "--shots", 3)
    made = command("fit", *arguments, "--novel", "blue square", "--json").json
    found = made["adapted"]
    base, novel = found["base_mIoU"], found["novel_mIoU"]
    assert found["hIoU"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
    info = json.loads((place / made["run"] / "run.json").read_text())
    assert info["plan"]["vladapt"]["classes"] == ["background", "red square", "green square"]
    assert command("eval", made["run"], "--json").json["adapted"] == found
