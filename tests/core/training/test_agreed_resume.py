"""Processes that are resumed agree on one checkpoint, rank 0's, or all end with one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from forked import Group

from vladapt.core.training.checkpoints import checkpoints

SETTINGS = {"epochs": 2, "batch_size": 8, "lr": 1e-4, "save_every": 2, "seed": 3, "optimizer": "sgd"}


@pytest.fixture(scope="module")
def stopped(small_clip_spec, tmp_path_factory):
    """A folder with a training of two processes that was killed at step 5, and its job."""
    folder = tmp_path_factory.mktemp("stopped")
    job = {"spec": small_clip_spec, "losses": {"clip": 1.0}, "settings": SETTINGS}
    run({**job, "folder": str(folder), "kill_at": 5})
    assert [path.name for path in checkpoints(folder / "checkpoints")] == ["step-00000002.pt", "step-00000004.pt"]
    return job, folder


@pytest.fixture
def resumed(stopped, tmp_path):
    """`resumed(change)` -> (exit codes, last lines of stderr) of two processes with a copy of the folder each, after
    `change(folders)`."""
    job, folder = stopped

    def resume(change):
        folders = [tmp_path / str(rank) for rank in range(2)]
        for place in folders:
            shutil.copytree(folder, place)
        change([place / "checkpoints" for place in folders])
        done = run({**job, "folder": str(tmp_path / "{rank}"), "resume": True})
        lines = [(each.stderr.strip().splitlines() or [""])[-1].split("]: ")[-1] for each in done]  # after "[rank0]: "
        return [each.returncode for each in done], lines, folders

    return resume


def run(job: dict) -> list:
    with Group([Path(__file__).with_name("training_process.py"), json.dumps(job)], 2) as group:
        return group.finished()


def test_folders_that_hold_the_same_are_resumed(resumed):
    codes, lines, folders = resumed(lambda places: None)
    assert codes == [0, 0], lines
    assert checkpoints(folders[0] / "checkpoints")[-1].name == "step-00000006.pt"


def test_rank_0_decides_where_another_has_a_newer_one(resumed):
    """Without its newest checkpoint rank 0 goes on from step 2, and so does the other."""
    codes, lines, _ = resumed(lambda places: remove(places[0] / "step-00000004.pt"))
    assert codes == [0, 0], lines


@pytest.mark.parametrize("rank", [0, 1])
def test_an_empty_folder_on_one_process_ends_both_with_one_line(resumed, rank):
    codes, lines, _ = resumed(lambda places: shutil.rmtree(places[rank]))
    assert codes == [1, 1] and lines[0] == lines[1]
    told = "rank 1 has no step-00000004.pt, from which rank 0 continues"
    assert (told if rank else "rank 1 has step-00000004.pt there, but rank 0 has no checkpoint") in lines[0]
    assert "give all processes one --out that they share" in lines[0]


def test_a_checkpoint_of_another_training_on_one_process_ends_both(resumed):
    def other(places):
        (places[1] / "step-00000004.pt").write_bytes((places[1] / "step-00000002.pt").read_bytes())

    codes, lines, _ = resumed(other)
    assert codes == [1, 1] and lines[0] == lines[1]
    assert "on rank 1 it differs from the file that rank 0 continues from" in lines[0]


def test_damaged_checkpoints_of_rank_0_end_both(resumed):
    codes, lines, _ = resumed(lambda places: [path.write_bytes(b"") for path in checkpoints(places[0])])
    assert codes == [1, 1] and lines[0] == lines[1] and "all 2 checkpoints are damaged" in lines[0]


def remove(path: Path) -> None:
    path.unlink()
    path.with_suffix(".sha256").unlink()
