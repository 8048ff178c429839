"""The log of a plan that mmengine runs: whole after a resume, so that the report's curve is."""

from __future__ import annotations

from types import SimpleNamespace

from vladapt.core.tasks.config_training.runner import _StepRecorder
from vladapt.core.training.log import FILE, LogFile, read_log


def runner_at(step: int):
    """What the recorder asks of mmengine's Runner, before a step."""
    wrapper = SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{"lr": 0.5}]))
    return SimpleNamespace(iter=step, max_iters=8, optim_wrapper=wrapper)


def train(path, start: int, end: int) -> None:
    recorder = _StepRecorder(lambda *told: None, 1, LogFile(path))
    recorder.before_train(runner_at(start))
    for step in range(start, end):
        recorder.after_train_iter(runner_at(step), step, outputs={"loss_box": 8.0 - step, "acc": 1.0})


def test_a_resumed_plan_has_each_step_once(tmp_path):
    train(tmp_path / FILE, 0, 6)
    train(tmp_path / FILE, 4, 8)
    rows = read_log(tmp_path / FILE)
    assert [(row["step"], row["loss"]) for row in rows] == [(step, 9.0 - step) for step in range(1, 9)]
    assert rows[0] == {"step": 1, "loss": 8.0, "lr": 0.5, "loss_box": 8.0, "acc": 1.0}


def test_names_of_scores_say_which_way_is_better():
    from vladapt.core.tasks.config_training.report import with_arrow

    names = ("surface_dice", "hd95_mm", "hd95_px", "missed")
    assert [with_arrow(name) for name in names] == ["surface dice ↑", "HD95, mm ↓", "HD95, pixels ↓", "missed"]
    others = ("rmse", "rmse_gain", "rmse_training_mean", "r2", "f1_feature_difference", "bias", "AP50")
    assert [with_arrow(name) for name in others] == [
        *("RMSE ↓", "RMSE gain ↑", "RMSE training mean ↓", "R2 ↑", "F1 feature difference ↑", "bias", "AP50 ↑"),
    ]
