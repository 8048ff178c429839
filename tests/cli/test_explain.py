"""Why a run says what it says: `predict --explain`, and what a run keeps for it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from vladapt.core.engine.fit import task_of_run
from vladapt.core.explanation.evidence import LabelledImages
from vladapt.core.runs.folder import Run
from vladapt.core.tasks.classification.stored_run import LabelledPictures


@pytest.fixture
def pictures(run):
    """The labelled images of the run of `run`, and what loads them."""
    opened = Run.open(run)
    labelled = LabelledImages.load(run)
    task = task_of_run(opened)
    return labelled, LabelledPictures(opened, task.domain, task.name, labelled)


def test_a_run_finds_the_pictures_of_its_labelled_images_again(pictures, run):
    labelled, found = pictures
    assert len(labelled) == labelled.total == 6 and set(labelled.ids) == set(Run.open(run).info["splits"]["support"])
    nearest = labelled.nearest(labelled.features[:1])[0]
    assert nearest[0].id == labelled.ids[0] and nearest[0].similarity == pytest.approx(1, abs=1e-3)
    assert found.load(nearest[0]).shape == (24, 24, 3)


def test_a_picture_that_is_gone_or_another_is_not_shown(pictures):
    labelled, found = pictures
    first, second = labelled.nearest(labelled.features[:1])[0][:2]
    paths = [found.path_of(labelled.places[labelled.position(each.row)]["source"]) for each in (first, second)]
    paths[0].unlink()
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(paths[1])
    assert found.load(first) is None and found.load(second) is None


def test_predict_explains_each_answer_on_a_page(vladapt, run, colours, tmp_path):
    outcome = vladapt("predict", run, colours / "red" / "01.png", "--explain", "--out", "why", "--json")
    assert outcome.code == 0, outcome.err
    row, page = outcome.json["predictions"][0], (tmp_path / "why" / "explanations.html").read_text()
    why = row["explanation"]
    assert why["class"] == row["label"] and why["method"] == "rollout"
    assert np.asarray(Image.open(tmp_path / why["heat_map"])).shape == (16, 16, 3)
    first = why["examples"][0]
    assert set(first) == {"id", "labels", "similarity", "part", "share"} and first["labels"] == [row["label"]]
    assert sum(each["part"] for each in why["examples"]) == pytest.approx(why["examples_add"])
    assert sum(each["share"] for each in why["examples"]) == pytest.approx(1)
    assert "An aid, not a proof" in page and page.count("data:image/jpeg") == 2 + len(why["examples"])
    assert "http" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert set(outcome.json["files"]) == {why["heat_map"], "why/explanations.html"}


def test_what_cannot_be_explained_is_one_line(vladapt, run, colours):
    image = colours / "red"
    for words, said in (
        (["--explain"], "--out DIR"),
        (["--explain-method", "lime", "--out", "why"], "give one of grad-cam, occlusion, rollout"),
        (["--explain-method", "grad-cam", "--out", "why"], "is not convolutional; give --explain-method occlusion"),
        (["--explain", "--stream", "--out", "why"], "omit one of the two"),
        (["--out", "why"], "with --explain; otherwise"),
    ):
        outcome = vladapt("predict", run, image, *words)
        assert outcome.code in (1, 2) and said in outcome.error, outcome.err


def test_a_run_of_an_older_version_is_explained_by_heat_maps_alone(vladapt, run, without_digests, colours, tmp_path):
    (without_digests(run) / "labelled.safetensors").unlink()
    how = ("--explain-method", "occlusion", "--out", "why", "--json")
    outcome = vladapt("predict", run, colours / "blue" / "02.png", *how)
    assert outcome.code == 0, outcome.err
    assert outcome.json["predictions"][0]["explanation"]["examples"] == []
    assert "keeps no labelled images" in (tmp_path / "why" / "explanations.html").read_text()


def test_mistakes_of_an_evaluation_have_reasons_unless_names_are_hidden(vladapt, run, colours, tmp_path):
    for shade, other in (("red", "blue"), ("blue", "red")):  # every label is wrong
        (tmp_path / "swapped" / shade).mkdir(parents=True)
        shutil.copy(colours / other / "01.png", tmp_path / "swapped" / shade / f"{other}.png")
    for words, reasons in ((), 2), (("--redact",), 0):
        outcome = vladapt("eval", run, "--data", "swapped", "--out", "again", *words, "--json")
        assert outcome.code == 0, outcome.err
        page = (tmp_path / "again" / "report.html").read_text()
        assert page.count('class="why"') == reasons and ("An aid, not a proof" in page) == bool(reasons)
        assert (page.count("data:image/jpeg") > 2 * reasons) == bool(reasons), "heat maps and labelled images"
