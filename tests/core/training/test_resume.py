"""A real process, killed at any step and started again, ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from forked import Group

from vladapt import DataError
from vladapt.core.training.checkpoints import checkpoints, newest_checkpoint, save_checkpoint

SETTINGS = {"epochs": 3, "batch_size": 8, "lr": 1e-3, "save_every": 2, "seed": 3, "ema": 0.5}
ON_TWO = {**SETTINGS, "epochs": 2, "ema": None, "optimizer": "sgd", "lr": 1e-4, "clip_grad": 5.0}


def start(job: dict, ranks: int = 1) -> Group:
    return Group([Path(__file__).with_name("training_process.py"), json.dumps(job)], ranks)


def run(job: dict, ranks: int = 1, expect: int = 0) -> dict | None:
    with start(job, ranks) as group:
        for done in group.finished():
            assert done.returncode == expect, done.stderr[-3000:]
    return torch.load(Path(job["folder"]) / "done.pt") if expect == 0 else None


def assert_same(one: dict, other: dict, tolerance: float = 0.0) -> None:
    for part in ("weights", "losses"):
        assert set(one[part]) == set(other[part])
        for name, value in one[part].items():
            assert torch.allclose(value.float(), other[part][name].float(), rtol=0, atol=tolerance), name


@pytest.fixture(scope="module")
def job(small_clip_spec):
    small_heads = {"slip": {"mlp_dim": 32, "emb_dim": 16}}
    losses = {"slip": 1.0, "alip": 0.5}
    return {"spec": small_clip_spec, "losses": losses, "loss_options": small_heads, "settings": SETTINGS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """That of `undisturbed`."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(job, folder):
    return run({**job, "folder": str(folder)})


@pytest.fixture(scope="module")
def on_one(job, tmp_path_factory):
    """`on_one(**change)` -> what a training on one process ended with, made once for all that are compared with it."""
    made = {}

    def trained(**change) -> dict:
        key = json.dumps(change)
        if key not in made:
            made[key] = run({**job, **change, "folder": str(tmp_path_factory.mktemp("on-one"))})
        return made[key]

    return trained


@pytest.mark.thorough(but=("6",))
@pytest.mark.parametrize("step", [5, 6])
def test_a_killed_run_ends_as_if_it_had_not_been(job, undisturbed, tmp_path, step):
    place = {**job, "folder": str(tmp_path)}
    run({**place, "kill_at": step}, expect=-signal.SIGKILL)
    again = run({**place, "resume": True})
    assert_same(undisturbed, again)
    assert again["history"] == undisturbed["history"]
    assert f"Resumed at step {(step - 1) // 2 * 2} of 9" in again["said"][0]


def test_a_damaged_checkpoint_falls_back_and_says_so(job, undisturbed, tmp_path):
    place = {**job, "folder": str(tmp_path)}
    run({**place, "kill_at": 7}, expect=-signal.SIGKILL)
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    again = run({**place, "resume": True})
    assert_same(undisturbed, again)
    assert "damaged" in again["said"][0]
    assert "Resumed at step 4 of 9" in again["said"][1]


@pytest.mark.thorough
def test_workers_change_nothing(job, undisturbed, tmp_path):
    place = {**job, "folder": str(tmp_path), "settings": {**SETTINGS, "workers": 2}}
    run({**place, "kill_at": 6}, expect=-signal.SIGKILL)
    assert_same(undisturbed, run({**place, "resume": True}))


def test_a_checkpoint_of_another_run_is_refused(job, tmp_path, small_clip_spec, toy_pairs):
    from vladapt.core.backbones.load import load_backbone
    from vladapt.core.training.settings import TrainingSettings
    from vladapt.core.training.train import TrainingTask, train

    backbone = load_backbone(small_clip_spec, device="cpu")
    train(backbone, TrainingTask(toy_pairs(), {"clip": 1.0}), TrainingSettings(epochs=1, batch_size=8), tmp_path)
    with pytest.raises(DataError, match=r"lr=1e-05, this one has 0\.5"):
        settings = TrainingSettings(epochs=1, batch_size=8, lr=0.5)
        train(backbone, TrainingTask(toy_pairs(), {"clip": 1.0}), settings, tmp_path, resume=True)


def test_a_finished_run_resumes_to_its_end(job, undisturbed, folder, tmp_path):
    finished = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("done.pt"))
    assert_same(undisturbed, run({**job, "folder": str(finished), "resume": True}))


def test_checkpoints_are_whole_or_not_there(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, None, [])
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "tensor": torch.full((3,), float(step))}, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002.pt", "step-00000003.pt"]
    (tmp_path / ".step-00000004.pt.abc").write_bytes(b"half")
    assert newest_checkpoint(tmp_path)[0]["step"] == 3
    (tmp_path / "step-00000003.sha256").unlink()
    state, path, notes = newest_checkpoint(tmp_path)
    assert state["step"] == 2 and path.name == "step-00000002.pt" and "digest is missing" in notes[0]
    path.write_bytes(b"")
    with pytest.raises(DataError, match="all 2 checkpoints are damaged"):
        newest_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=2)
    monkeypatch.setattr(torch, "save", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, {"step": 2}, keep=2)
    assert newest_checkpoint(tmp_path)[0] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    """torch makes a RuntimeError of it, "unexpected pos"."""
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (full, str(tmp_path / "partial")))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 1, {"weights": torch.zeros(1_000_000)}, keep=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough(but=("fsdp-3", "ddp-None"))
@pytest.mark.parametrize(("parallel", "micro"), [("ddp", None), ("ddp", 3), ("fsdp", 3)])
def test_two_processes_train_as_one(job, on_one, tmp_path, parallel, micro):
    """Weights, heads with BatchNorm and means: all as one process makes them of the same batches."""
    settings = {**ON_TWO, "micro_batch_size": micro, "parallel": parallel}
    two = run({**job, "folder": str(tmp_path), "settings": settings, "validate": True}, ranks=2)
    assert_same(on_one(settings=ON_TWO, validate=True), two, tolerance=1e-6)


@pytest.mark.thorough
def test_images_are_attacked_on_two_processes_as_on_one(job, on_one, tmp_path):
    """The attack has passes of its own within the step that processes share."""
    fare = {"losses": {"fare": 1.0}, "loss_options": {"fare": {"steps": 2}}}
    settings = {**ON_TWO, "epochs": 1}
    two = run({**job, **fare, "folder": str(tmp_path), "settings": settings}, ranks=2)
    assert_same(on_one(**fare, settings=settings), two, tolerance=1e-5)


@pytest.mark.thorough(but=("ddp-3",))
@pytest.mark.parametrize(("parallel", "micro"), [("ddp", None), ("ddp", 3), ("fsdp", 3)])
def test_losses_by_rows_train_on_two_processes_as_on_one(job, on_one, tmp_path, parallel, micro):
    """Each rank has its share of the gradients of logit scale and bias, which are averaged with those of the towers."""
    by_rows = {"losses": {"siglip": 1.0, "clip": 0.5}, "loss_options": {}}
    settings = {**ON_TWO, "epochs": 1}
    one = on_one(settings=settings, **by_rows)
    settings |= {"micro_batch_size": micro, "parallel": parallel}
    two = run({**job, **by_rows, "folder": str(tmp_path), "settings": settings}, ranks=2)
    assert_same(one, two, tolerance=1e-6)
    assert one["losses"]["losses.siglip.bias"] != -10
    for row, other in zip(one["history"], two["history"], strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)


@pytest.mark.thorough(but=("fsdp",))
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_resume_as_they_were(job, tmp_path, parallel):
    settings = {**ON_TWO, "parallel": parallel}
    one = run({**job, "folder": str(tmp_path / "one"), "settings": settings}, ranks=2)
    place = {**job, "folder": str(tmp_path / "two"), "settings": settings}
    with start({**place, "kill_at": 5}, ranks=2) as group:
        group.finished()
    two = run({**place, "resume": True}, ranks=2)
    assert_same(one, two)


class Trap:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_checkpoint_that_holds_code_is_refused_and_never_run(tmp_path):
    save_checkpoint(tmp_path, 1, {"weights": Trap(tmp_path / "sprung")}, keep=1)
    with pytest.raises(pickle.UnpicklingError):
        newest_checkpoint(tmp_path)
    assert not (tmp_path / "sprung").exists()
