"""Curves of a training: which, in which order, with words for those who see no picture."""

from __future__ import annotations

import base64
import io

from PIL import Image

from vladapt.core.runs.plots import curve_picture
from vladapt.core.runs.run_sections import training_curves

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
    main, minor = training_curves(history(), LOSSES, 2)
    names = ["Loss", "Score on val", "Learning rate", "clip, weight 1", "silc, weight 0.5"]
    assert [curve.title for curve in main] == names
    assert [curve.title for curve in minor] == ["silc: local to global", "Norm of the gradient"]
    for curve in (*main, *minor):
        address = curve_picture(curve, small=True)
        picture = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
        assert picture.format == "PNG" and picture.width == 600


def test_words_say_what_the_picture_shows():
    (curve,), _ = training_curves(only("val"), LOSSES, None)
    assert curve.alt == (
        "Score on val over epoch. Score on val: 0.3 to 0.3, lowest 0.3 at epoch 1, highest 0.4 at epoch 2."
    )


def test_the_kept_epoch_is_marked_in_words_and_in_the_picture():
    kept = {epoch: training_curves(only("loss", "val"), LOSSES, epoch)[0] for epoch in (None, 2, 3)}
    notes = {epoch: curves[1].note for epoch, curves in kept.items()}
    assert notes[None] == "the higher the better"
    assert notes[2] == "the higher the better; the weights of epoch 2, the bar, were kept."
    assert "epoch 3, the bar, were kept. It is the last one: more epochs may help." in notes[3]
    for place in range(2):
        assert len({curve_picture(curves[place]) for curves in kept.values()}) == 3


def test_a_kept_epoch_that_has_no_row_is_not_marked():
    assert training_curves(only("val"), LOSSES, 9) == training_curves(only("val"), LOSSES, None)


def test_a_single_loss_of_weight_one_is_the_whole():
    alone = training_curves(only("loss", "clip"), {"clip": 1.0}, None)
    assert ([curve.title for curve in alone[0]], alone[1]) == (["Loss"], [])
    doubled = training_curves(only("loss", "clip"), {"clip": 2.0}, None)
    assert ([curve.title for curve in doubled[0]], doubled[1]) == (["Loss", "clip, weight 2"], [])


def test_values_that_are_missing_leave_gaps_and_those_never_there_no_curve():
    rows = [{"epoch": 1, "loss": 2.0, "val": None}, {"epoch": 2, "loss": float("nan")}]
    (curve,), minor = training_curves(rows, {}, 1)
    assert curve.title == "Loss" and "2 to 2, lowest 2 at epoch 1" in curve.alt and minor == []
    assert curve_picture(curve).startswith("data:image/png")
    assert training_curves([], {"clip": 1.0}, None) == ([], [])


def test_a_second_stage_is_marked_and_is_no_curve():
    staged = [{**row, "stage": 1 + (row["epoch"] > 1)} for row in only("loss")]
    (with_stages,), _ = training_curves(staged, {}, None)
    (without,), _ = training_curves(only("loss"), {}, None)
    assert with_stages.title == "Loss" and curve_picture(with_stages) != curve_picture(without)
    assert "dotted line" in with_stages.note and "dotted line" not in without.note


def test_one_epoch_and_hundreds_of_epochs_have_curves():
    (single,), _ = training_curves(only("val")[:1], {}, 1)
    assert "more epochs may help" not in single.note and curve_picture(single)
    many = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in range(1, 301)]
    (long,), _ = training_curves(many, {}, 7)
    assert "lowest 0.003333 at epoch 300" in long.alt and curve_picture(long)


def test_curves_of_a_log_have_its_steps_and_what_they_cost():
    speed = {"images_per_second": 90.0, "data_wait": 0.25, "memory_gib": 1.5, "logit_scale": 100.0}
    rows = [{"step": step, "epoch": step / 4, "loss": 3.0 / step, "lr": 0.1, **speed} for step in range(1, 9)]
    for row in (rows[3], rows[7]):
        row["val"] = row["epoch"] / 4
    main, minor = training_curves(rows, {"clip": 1.0}, 2)
    loss, val, _ = main
    assert list(loss.curves["Loss"][0]) == [step / 4 for step in range(1, 9)]
    assert list(val.curves["Score on val"][0]) == [1.0, 2.0] and "the weights of epoch 2, the bar" in val.note
    assert loss.note == "mean of the steps up to each point, on images as the training sees them"
    assert [curve.title for curve in minor] == [
        "Images per second",
        "Share of time waiting for data",
        "Peak memory, GiB",
        "Logit scale",
    ]
    assert "lowest 0.375 at epoch 2" in loss.alt and all(map(curve_picture, (*main, *minor)))


def test_a_stage_of_a_log_is_marked_between_its_lines():
    rows = [{"step": step, "epoch": step / 2, "stage": 1 + (step > 2), "loss": 1.0} for step in range(1, 5)]
    (loss,), _ = training_curves(rows, {}, None)
    assert loss.dividers == [1.25] and "dotted line" in loss.note
