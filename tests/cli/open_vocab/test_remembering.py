"""A detector that learns a new name and keeps its old ones, as a user runs it: `--start RUN --remember NAMES`."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

OLD, NEW = "red square, green square", "blue square"


@pytest.fixture(scope="module")
def data(squares):
    return squares(train=16, val=4, test=8)


@pytest.fixture(scope="module")
def start(command, tiny, data):
    """The run of a detector that knows two of the three."""
    shared = ("--config", tiny("detection"), "--data", data)
    return command("fit", *shared, "--classes", OLD, "--epochs", 10, "--json").json["run"]


@pytest.fixture(scope="module")
def fit(command, tiny, data):
    """fit(flags) -> the outcome of learning the third."""

    def call(*flags, classes=NEW, epochs=4):
        shared = ("--config", tiny("detection"), "--data", data, "--epochs", epochs)
        return command("fit", *shared, "--classes", classes, *flags, "--json")

    return call


@pytest.fixture(scope="module")
def made(fit, start):
    return fit("--start", start, "--remember", OLD).json


def weights_of(place, run):
    return load_file(place / run / "adapter.safetensors")


def test_the_old_names_stay_and_the_report_says_how_well(place, made):
    told = made["adapted"]
    assert told["remembered_AP_before"] > 0.2 and told["remembered_AP"] > 0.1 and told["new_AP"] > 0.1
    info = json.loads((place / made["run"] / "run.json").read_text())
    assert info["class_names"] == ["blue square", "red square", "green square"]
    assert info["plan"]["vladapt"]["remember"] == ["red square", "green square"]
    assert any(note.startswith("Boxes of the earlier detector") for note in info["notes"])
    assert "Boxes of names to remember in train, not learned from: 21." in info["notes"]
    page = (place / made["run"] / "report.html").read_text()
    assert "What it remembers" in page and "AP before" in page


def test_the_run_is_evaluated_and_used_as_any_other(command, made, data, place):
    again = command("eval", made["run"], "--json").json["adapted"]
    assert again["remembered_AP"] == made["adapted"]["remembered_AP"] and "remembered_AP_before" not in again
    rows = command("predict", made["run"], data / "images" / "01.png", "--json").json["predictions"]
    assert set(rows[0]["labels"]) <= {"red square", "green square", "blue square"}


def test_weights_lie_between_those_of_the_start_and_the_trained_ones(place, fit, start):
    first = weights_of(place, start)
    options = ("--start", start, "--remember", OLD, "--wise-alpha")
    trained, half = (weights_of(place, fit(*options, alpha, epochs=1).json["run"]) for alpha in ("1", "0.5"))
    name = "bbox_head.retina_reg.weight"
    assert not torch.equal(first[name], trained[name])
    torch.testing.assert_close(half[name], (first[name] + trained[name]) / 2)


def test_the_training_begins_with_the_weights_of_the_start(place, fit, start):
    """At a rate of nearly nothing they stay, but for statistics and the embeddings of names."""
    run = fit("--start", start, "--lr", 1e-12, epochs=1).json["run"]
    first, after = weights_of(place, start), weights_of(place, run)
    for name in set(first) - {"bbox_head.retina_cls.text.embeddings"}:
        torch.testing.assert_close(after[name], first[name], rtol=0, atol=1e-6)


def test_old_names_that_are_annotated_are_learned_as_they_are(place, fit, start):
    run = fit("--start", start, "--remember", "red square", "--wise-alpha", 1, classes=f"{NEW}, {OLD}", epochs=1).json
    info = json.loads((place / run["run"] / "run.json").read_text())
    assert not any("the detector before" in note or "not learned from" in note for note in info["notes"])
    assert info["class_names"] == ["blue square", "red square", "green square"]
    assert {"remembered_AP", "remembered_AP_before", "new_AP"} <= set(run["adapted"])


def test_what_counts_as_found_before_is_an_option(fit, start):
    def boxes(score):
        notes = fit("--start", start, "--remember", OLD, "--remember-score", score, "--wise-alpha", 1, epochs=1)
        note = next(each for each in told_by(notes) if each.startswith("Boxes of the earlier detector"))
        return int(note.split(": ")[1].split()[0])

    def told_by(outcome):
        from vladapt.core.runs.folder import Run

        return Run.open(outcome.json["run"]).info["notes"]

    assert boxes(0.05) > boxes(0.6) >= 0


def test_images_to_remember_by_are_learned_from(place, fit, start, squares):
    more = squares("unlabelled", train=3, val=0, test=0) / "images"
    options = ("--remember-images", more, "--remember-score", 0.1, "--wise-alpha", 1, "--redact")
    run = fit("--start", start, "--remember", OLD, *options, epochs=1).json["run"]
    text = (place / run / "run.json").read_text()
    assert any("in 19 images, 3 of them given to remember by" in note for note in json.loads(text)["notes"])
    assert "unlabelled" not in text and start not in text  # redacted


def test_low_rank_matrices_train_in_place_of_the_weights(place, fit, start):
    run = fit("--start", start, "--lora-rank", 1, epochs=1).json["run"]
    first, after = weights_of(place, start), weights_of(place, run)
    assert set(first) == set(after)
    name = "bbox_head.cls_convs.0.conv.weight"
    change = (after[name] - first[name]).flatten(1)
    assert change.abs().max() > 0
    changed = {
        each for each in first if first[each].shape == after[each].shape and not torch.equal(first[each], after[each])
    }
    assert "bbox_head.retina_reg.bias" not in changed and name in changed


def test_a_checkpoint_of_the_configs_model_is_a_start_too(place, fit, start, tmp_path):
    """What it was trained on nobody says, so any names may be remembered."""
    file = tmp_path / "weights.safetensors"
    save_file(weights_of(place, start), str(file))
    told = fit("--start", file, "--remember", "red square", "--wise-alpha", 0, epochs=1).json["adapted"]
    assert told["remembered_AP_before"] > 0.1
    assert told["remembered_AP"] == pytest.approx(told["remembered_AP_before"], abs=0.02)


def test_old_names_are_asked_for_by_the_texts_that_the_start_was_told(place, command, tiny, data, fit, tmp_path):
    file = tmp_path / "told.json"
    file.write_text(json.dumps({"red square": {"synonyms": ["crimson box"]}, "green square": {}}))
    shared = ("--config", tiny("detection"), "--data", data, "--epochs", 1)
    start = command("fit", *shared, "--classes", file, "--json").json["run"]
    run = fit("--start", start, "--remember", "red_square", "--wise-alpha", 1, epochs=1).json["run"]
    plan = json.loads((place / run / "run.json").read_text())["plan"]
    told = {"synonyms": ["crimson box"], "descriptions": []}
    assert plan["vladapt"]["described"]["red square"] == plan["vladapt"]["described"]["red_square"] == told
    assert plan["model"]["bbox_head"]["classifier"]["classes"]["red square"]["synonyms"] == ["crimson box"]


def test_a_start_alone_is_plain_fine_tuning(fit, start):
    gone_on = fit("--start", start, epochs=1).json["adapted"]
    assert np.isfinite(gone_on["AP"]) and "remembered_AP" not in gone_on


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--start", "RUN", "--remember", "red square, lorry"), "never knew 'lorry'"),
        (("--start", "RUN", "--remember", "red sqare"), "did you mean red square"),
        (("--remember", OLD), "give a trained one, --start RUN"),
        (("--lora-rank", 2), "--lora-rank: the training starts from an untrained detector"),
        (("--start", "nowhere"), "--start nowhere: neither a run folder nor a checkpoint"),
        (("--start", "RUN", "--remember-score", 0.5), "--remember-score: has an effect only with --remember"),
        (("--start", "RUN", "--wise-alpha", 0.5), "--wise-alpha: has an effect only with --remember"),
        (("--start", "RUN", "--remember", OLD, "--remember-images", "gone"), "--remember-images gone: no such folder"),
        (("--start", "RUN", "--remember", OLD, "--novel", "red square"), "both name 'red square'"),
        (("--start", "RUN", "--remember", OLD, "--novel", "coco"), "--novel coco leaves out classes"),
        (("--start", "RUN", "--remember", "a, a"), "--remember: 'a' and 'a' are the same class"),
        (("--start", "RUN", "--backbone", "embedded"), "--backbone embedded: with --start the model is the run's own"),
    ],
)
def test_what_cannot_be_remembered_is_one_line_before_anything_is_read(fit, start, flags, expected, place):
    runs = len(list((place / "runs").iterdir()))
    outcome = fit(*(start if flag == "RUN" else flag for flag in flags))
    assert outcome.code != 0 and expected in outcome.error
    assert len(list((place / "runs").iterdir())) == runs


def test_a_run_of_another_model_is_told(command, data, start):
    outcome = command("fit", "--domain", "open-vocab", "--task", "detection", "--data", data, "--start", start)
    assert "its model is a RetinaNet, but the config trains a FasterRCNN; give the recipe" in outcome.error
