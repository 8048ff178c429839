"""Curves of a training: which, in which order, with words for those who see no picture."""

from __future__ import annotations

import base64
import io

from PIL import Image

from vladapt.core.runs.training_plots import training_curves

LOSSES = {"clip": 1.0, "silc": 0.5}


def history(epochs: int = 3) -> list[dict]:
    return [
        {
            "epoch": epoch,
            "loss": 3.0 - 0.5 * epoch,
            "clip": 2.0 / epoch,
            "silc": 1.5 / epoch,
            "silc.local_to_global": 0.5 / epoch,
            "grad_norm": 4.0,
            "lr": 1e-5 / epoch,
            "val": 0.3 + 0.1 * (epoch == 2),
        }
        for epoch in range(1, epochs + 1)
    ]


def only(*keys: str) -> list[dict]:
    return [{key: row[key] for key in ("epoch", *keys)} for row in history()]


def test_the_whole_comes_first_then_the_losses_then_their_parts():
    curves = training_curves(history(), LOSSES, 2)
    assert [(curve.name, curve.main) for curve in curves] == [
        ("Loss", True),
        ("Score on val", True),
        ("Learning rate", True),
        ("clip, weight 1", True),
        ("silc, weight 0.5", True),
        ("silc: local to global", False),
        ("Norm of the gradient", False),
    ]
    for curve in curves:
        picture = Image.open(io.BytesIO(base64.b64decode(curve.image.removeprefix("data:image/png;base64,"))))
        assert picture.format == "PNG" and picture.width == 600


def test_words_say_what_the_picture_shows():
    (curve,) = training_curves(only("val"), LOSSES, None)
    assert curve.alt == (
        "Score on val over the epochs: 0.3 in epoch 1, 0.3 in epoch 3; lowest 0.3 in epoch 1, highest 0.4 in epoch 2."
    )


def test_the_kept_epoch_is_marked_in_words_and_in_the_picture():
    kept = {epoch: training_curves(only("loss", "val"), LOSSES, epoch) for epoch in (None, 2, 3)}
    notes = {epoch: curves[1].note for epoch, curves in kept.items()}
    assert notes[None] == "the higher the better"
    assert notes[2] == "the higher the better; the weights of epoch 2, the bar, were kept."
    assert "epoch 3, the bar, were kept. It is the last one: more epochs may help." in notes[3]
    for place in range(2):
        assert len({curves[place].image for curves in kept.values()}) == 3


def test_a_kept_epoch_that_has_no_row_is_not_marked():
    assert training_curves(only("val"), LOSSES, 9) == training_curves(only("val"), LOSSES, None)


def test_a_single_loss_of_weight_one_is_the_whole():
    assert [curve.name for curve in training_curves(only("loss", "clip"), {"clip": 1.0}, None)] == ["Loss"]
    doubled = training_curves(only("loss", "clip"), {"clip": 2.0}, None)
    assert [curve.name for curve in doubled] == ["Loss", "clip, weight 2"]


def test_values_that_are_missing_leave_gaps_and_those_never_there_no_curve():
    rows = [{"epoch": 1, "loss": 2.0, "val": None}, {"epoch": 2, "loss": float("nan")}]
    (curve,) = training_curves(rows, {}, 1)
    assert curve.name == "Loss" and "2 in epoch 1, 2 in epoch 1" in curve.alt
    assert training_curves([], {"clip": 1.0}, None) == []


def test_a_second_stage_is_marked_and_is_no_curve():
    staged = [{**row, "stage": 1 + (row["epoch"] > 1)} for row in only("loss")]
    (with_stages,), (without,) = training_curves(staged, {}, None), training_curves(only("loss"), {}, None)
    assert with_stages.name == "Loss" and with_stages.image != without.image
    assert "dotted line" in with_stages.note and "dotted line" not in without.note


def test_one_epoch_and_hundreds_of_epochs_have_curves():
    assert len(training_curves(only("val")[:1], {}, 1)) == 1
    assert "more epochs may help" not in training_curves(only("val")[:1], {}, 1)[0].note
    many = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in range(1, 301)]
    assert "0.003333 in epoch 300" in training_curves(many, {}, 7)[0].alt
