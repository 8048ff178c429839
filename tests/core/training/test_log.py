"""The log of a training: what its lines hold, that a resumed one is whole, who writes it and who else is told it."""

from __future__ import annotations

import json
import math
import signal
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from forked import Group
from mmengine.registry import VISBACKENDS

from vladapt import ConfigError, UnknownNameError
from vladapt.core.contracts.images import LogPlace
from vladapt.core.training import log
from vladapt.core.training.log import FILE, LogFile, keep_logs, log_interval, read_log
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

SETTINGS = {"epochs": 3, "batch_size": 8, "lr": 1e-3, "seed": 3}
MEASURED = {"images_per_second", "data_wait", "memory_gib"}


def logged(backbone, source, folder, validate=None, place=None, losses=None, **settings):
    """The lines of a training's log, and what it told the user."""
    told = []
    task = TrainingTask(source, losses or {"clip": 1.0, "neg-clip": 0.5}, validate=validate)
    train(backbone, task, TrainingSettings(**{**SETTINGS, **settings}), folder, log=place, on_message=told.append)
    return read_log(folder / FILE), told


def computed(row: dict) -> dict:
    """A line without what depends on the machine's speed."""
    return {name: value for name, value in row.items() if name not in MEASURED}


def run_process(job: dict, ranks: int = 1) -> list[int]:
    with Group([Path(__file__).with_name("training_process.py"), json.dumps(job)], ranks) as group:
        return [done.returncode for done in group.finished()]


def test_a_line_has_the_loss_its_parts_and_what_the_step_cost(fresh_clip, toy_pairs, tmp_path):
    rows, told = logged(fresh_clip, toy_pairs(), tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 10)) and told == []
    assert [row["epoch"] for row in rows[2::3]] == [1, 2, 3]
    keys = {"step", "epoch", "loss", "clip", "neg-clip", "grad_norm", "lr", "logit_scale", *MEASURED}
    assert {name for name in rows[0] if not name.startswith("neg-clip.")} == keys
    assert all(row.keys() == rows[0].keys() for row in rows)
    for row in rows:
        assert row["loss"] == pytest.approx(row["clip"] + 0.5 * row["neg-clip"], rel=1e-5)
        assert row["images_per_second"] > 0 and 0 < row["data_wait"] < 1 and row["memory_gib"] > 0
    assert rows[-1]["logit_scale"] == pytest.approx(float(fresh_clip.logit_scale), rel=1e-5)
    assert rows[0]["lr"] == pytest.approx(1e-3) and rows[-1]["lr"] < rows[0]["lr"] / 5  # of its own step


def test_between_two_lines_values_are_means_and_are_not_read(fresh_clip, small_clip_spec, toy_pairs, tmp_path):
    from vladapt.core.backbones.load import load_backbone

    each, _ = logged(fresh_clip, toy_pairs(), tmp_path / "each")
    again = load_backbone(small_clip_spec, device="cpu")
    some, told = logged(again, toy_pairs(), tmp_path / "some", log_every=4)
    assert [row["step"] for row in some] == [4, 8, 9]
    for name in ("loss", "neg-clip", "grad_norm"):
        means = [sum(row[name] for row in each[a:b]) / (b - a) for a, b in ((0, 4), (4, 8), (8, 9))]
        assert [row[name] for row in some] == pytest.approx(means, rel=1e-5)
    assert [row["lr"] for row in some] == [each[3]["lr"], each[7]["lr"], each[8]["lr"]]
    assert told[0].startswith(f"Step 4/9: loss {some[0]['loss']:.4f}, learning rate ") and len(told) == 3
    assert "images/s" in told[0] and "of the time waiting for data" in told[0]


def test_the_default_interval_follows_the_length():
    assert [log_interval(None, steps) for steps in (1, 199, 400, 8000, 10**6)] == [1, 1, 2, 40, 100]
    assert log_interval(7, 10**6) == 7


def test_the_score_on_val_joins_the_last_step_of_its_epoch(fresh_clip, toy_pairs, tmp_path):
    scores = iter([0.25, 0.5, 0.125])
    rows, _ = logged(fresh_clip, toy_pairs(), tmp_path, validate=lambda: next(scores), log_every=100)
    assert [(row["step"], row["val"]) for row in rows] == [(3, 0.25), (6, 0.5), (9, 0.125)]
    assert all("loss" in row for row in rows)


def test_stages_go_on_counting(fresh_clip, toy_pairs, tmp_path):
    path = tmp_path / FILE
    LogFile(path).add({"step": 4, "epoch": 2.0, "stage": 1})
    rows, _ = logged(fresh_clip, toy_pairs(), tmp_path, place=LogPlace(path, 4, 2.0, 2), epochs=1)
    assert [(row["step"], row["epoch"], row["stage"]) for row in rows][1::2] == [(5, 2.3333, 2), (7, 3.0, 2)]
    assert rows[0] == {"step": 4, "epoch": 2.0, "stage": 1}


def test_a_killed_and_resumed_training_has_one_whole_log(small_clip_spec, tmp_path):
    settings = {**SETTINGS, "save_every": 2}
    job = {"spec": small_clip_spec, "losses": {"clip": 1.0}, "settings": settings, "validate": True}
    assert run_process({**job, "folder": str(tmp_path / "left")}) == [0]
    place = {**job, "folder": str(tmp_path / "killed")}
    assert run_process({**place, "kill_at": 6}) == [-signal.SIGKILL]
    before = read_log(tmp_path / "killed" / FILE)
    assert [row["step"] for row in before] == [1, 2, 3, 4, 5]
    with (tmp_path / "killed" / FILE).open("a") as file:
        file.write('{"step": 6, "epo')  # what a power cut leaves
    assert run_process({**place, "resume": True}) == [0]
    left, whole = (read_log(tmp_path / name / FILE) for name in ("left", "killed"))
    assert [row["step"] for row in whole] == list(range(1, 10))
    assert whole[:4] == before[:4]  # of before the checkpoint, with what was measured then
    for one, other in zip(left, whole):
        assert {k: v for k, v in one.items() if k not in MEASURED} == {
            k: v for k, v in other.items() if k not in MEASURED
        }


def test_a_training_that_starts_anew_begins_a_new_log(tmp_path):
    path = tmp_path / FILE
    path.write_text('{"step": 1}\n{"step": 9, "stage": 2}\n')
    LogFile(path).start(0)
    assert read_log(path) == []


def test_a_stage_that_is_resumed_keeps_the_lines_of_others(tmp_path):
    path = tmp_path / FILE
    rows = [{"step": step, "stage": 1 + (step > 3)} for step in range(1, 7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    LogFile(path).start(2, stage=1)
    assert [row["step"] for row in read_log(path)] == [1, 2, 4, 5, 6]
    LogFile(path).start(5, stage=2)
    assert [row["step"] for row in read_log(path)] == [1, 2, 4, 5]


def test_values_that_are_no_numbers_are_null(tmp_path):
    LogFile(tmp_path / FILE).add({"step": 1, "loss": math.nan, "grad_norm": math.inf, "lr": 1 / 3})
    assert (tmp_path / FILE).read_text() == '{"step": 1, "loss": null, "grad_norm": null, "lr": 0.3333333}\n'


def test_a_log_that_cannot_be_written_is_told_once_and_goes_on_later(tmp_path):
    told = []
    (tmp_path / "taken").write_text("a file")
    file = LogFile(tmp_path / "taken" / FILE, told.append)
    file.start(0)
    file.add({"step": 1})
    file.amend({"step": 1, "val": 0.5})
    assert len(told) == 1 and "cannot be written" in told[0] and "continues without it" in told[0]
    (tmp_path / "taken").unlink()
    file.add({"step": 2})
    assert read_log(tmp_path / "taken" / FILE) == [{"step": 2}]


def test_only_the_first_of_two_processes_writes(small_clip_spec, tmp_path):
    """Each process has a folder of its own here, as on machines that share none."""
    settings = {**SETTINGS, "epochs": 1, "optimizer": "sgd", "log_every": 1}
    job = {"spec": small_clip_spec, "losses": {"clip": 1.0}, "settings": settings, "folder": str(tmp_path / "{rank}")}
    assert run_process(job, ranks=2) == [0, 0]
    assert [row["step"] for row in read_log(tmp_path / "0" / FILE)] == [1, 2, 3]
    assert not list((tmp_path / "1").rglob("*.jsonl"))


class Remembering:
    """A visualiser that keeps what it is told."""

    made: ClassVar[list] = []
    fail_at: ClassVar[int | None] = None

    def __init__(self, save_dir):
        self.save_dir, self.config, self.scalars, self.closed = save_dir, None, [], False
        self.made.append(self)

    def add_config(self, config):
        self.config = config

    def add_scalars(self, values, step):
        if step == self.fail_at:
            raise OSError("no network")
        self.scalars.append((step, values))

    def close(self):
        self.closed = True


@pytest.fixture
def remembering(monkeypatch):
    kind = type("Remembering", (Remembering,), {"made": []})
    monkeypatch.setitem(VISBACKENDS.module_dict, "Remembering", kind)
    return kind


def test_a_visualiser_is_told_each_line_and_closed(fresh_clip, toy_pairs, tmp_path, remembering):
    rows, _ = logged(fresh_clip, toy_pairs(), tmp_path, validate=lambda: 0.5, epochs=1, log_to="Remembering")
    (backend,) = remembering.made
    assert [step for step, _ in backend.scalars] == [1, 2, 3, 3] and backend.closed
    assert backend.scalars[1][1]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6)
    assert backend.scalars[3][1] == {"epoch": 1.0, "val": 0.5}
    assert backend.config.lr == 1e-3 and Path(backend.save_dir) == tmp_path / "Remembering"


def test_a_visualiser_that_fails_is_left_and_the_training_goes_on(fresh_clip, toy_pairs, tmp_path, remembering):
    remembering.fail_at = 2
    rows, told = logged(fresh_clip, toy_pairs(), tmp_path, log_to=("Remembering",))
    assert len(rows) == 9 and len(remembering.made[0].scalars) == 1
    assert told == [f"log_to=Remembering: no network; it gets no more lines, {FILE} still does"]


def test_a_visualiser_that_cannot_be_started_ends_the_training_before_it_begins(
    fresh_clip, toy_pairs, tmp_path, remembering, monkeypatch
):
    monkeypatch.setattr(remembering, "add_config", lambda self, config: (_ for _ in ()).throw(OSError("no key")))
    with pytest.raises(ConfigError, match=r"log_to=Remembering: cannot be started \(no key\)"):
        logged(fresh_clip, toy_pairs(), tmp_path, log_to="Remembering")
    assert read_log(tmp_path / FILE) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_missing_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setattr(log, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=f"'{name}'; install it with: pip install {name}, or omit"):
        TrainingSettings(log_to=name)
    monkeypatch.setattr(log, "find_spec", lambda package: ModuleSpec(package, None))
    assert TrainingSettings(log_to=name).log_to == (name,)


def test_an_unknown_visualiser_is_told_the_nearest_name():
    with pytest.raises(UnknownNameError, match="tensorboard"):
        TrainingSettings(log_to="tensorbord")


def test_the_log_moves_with_what_visualisers_wrote_into_the_run(tmp_path):
    training, run = tmp_path / "training", tmp_path / "run"
    run.mkdir()
    LogFile(training / FILE).add({"step": 1})
    LogFile(training / "refit" / FILE).add({"step": 2})
    (training / "tensorboard").mkdir()
    (training / "tensorboard" / "events").write_text("x")
    (training / "checkpoints").mkdir()
    keep_logs(training, run)
    assert read_log(run / FILE) == [{"step": 1}] and read_log(run / "refit" / FILE) == [{"step": 2}]
    assert (run / "tensorboard" / "events").is_file() and not (run / "checkpoints").exists()


def test_a_training_without_a_folder_writes_nothing(fresh_clip, toy_pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(fresh_clip, TrainingTask(toy_pairs(), {"clip": 1.0}), TrainingSettings(**{**SETTINGS, "epochs": 1}), None)
    assert not list(tmp_path.rglob(FILE))


def test_what_is_logged_changes_no_weight(fresh_clip, small_clip_spec, toy_pairs, tmp_path):
    from vladapt.core.backbones.load import load_backbone

    again = load_backbone(small_clip_spec, device="cpu")
    logged(fresh_clip, toy_pairs(), tmp_path / "one")
    logged(again, toy_pairs(), tmp_path / "other", log_every=5)
    for one, other in zip(fresh_clip.model.state_dict().values(), again.model.state_dict().values()):
        assert torch.equal(one, other)
