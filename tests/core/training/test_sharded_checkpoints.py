"""Checkpoints of sharded weights: any number of processes goes on from them, they are whole, and hold no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from forked import Group
from test_resume import assert_same, run

from vladapt.core.training.checkpoints import checkpoints, newest_checkpoint
from vladapt.core.training.sharded_checkpoints import DTYPES, load_sharded, read_index, write_safetensors

SETTINGS = {
    "epochs": 2,
    "batch_size": 8,
    "lr": 1e-3,
    "eps": 1e-3,
    "clip_grad": 5.0,
    "ema": 0.5,
    "save_every": 2,
    "keep": 9,
    "seed": 3,
    "parallel": "fsdp",
}
FIRST, LAST = "step-00000002", "step-00000004"


@pytest.fixture(scope="module")
def job(small_clip_spec):
    heads = {"slip": {"mlp_dim": 32, "emb_dim": 16}, "silc": {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16}}
    losses = {"slip": 1.0, "silc": 0.5}
    of_losses = {"losses": losses, "loss_options": heads}
    return {"spec": small_clip_spec, **of_losses, "settings": SETTINGS, "validate": True, "count": 16}


@pytest.fixture(scope="module")
def on(job, tmp_path_factory):
    """`on(ranks)` -> the folder of a finished training on so many processes, and what it ended with."""
    made = {}

    def trained(ranks: int):
        if ranks not in made:
            folder = tmp_path_factory.mktemp(f"on-{ranks}")
            made[ranks] = folder, run({**job, "folder": str(folder)}, ranks)
        return made[ranks]

    return trained


def stopped(folder: Path, to: Path, step: int) -> Path:
    """A copy of a folder as it was after a step."""
    shutil.copytree(folder, to)
    for path in checkpoints(to / "checkpoints"):
        if int(path.name.partition("-")[2].partition(".")[0]) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return to


@pytest.mark.thorough(but=("1-2",))
@pytest.mark.parametrize(("saved", "resumed"), [(4, 2), (1, 2)])
def test_other_numbers_of_processes_go_on(job, on, tmp_path, saved, resumed):
    folder, end = on(saved)
    place = stopped(folder, tmp_path / "resumed", step=2)
    again = run({**job, "folder": str(place), "resume": True}, resumed)
    assert "Resumed at step 2 of 4" in again["said"][0]
    assert_same(end, again, tolerance=2e-6)
    assert again["history"][:1] == end["history"][:1]


@pytest.mark.thorough
def test_it_goes_on_with_whole_weights_too(job, on, tmp_path):
    folder, end = on(2)
    place = stopped(folder, tmp_path / "resumed", step=2)
    settings = {**SETTINGS, "parallel": "ddp"}
    assert_same(end, run({**job, "settings": settings, "folder": str(place), "resume": True}, 2), tolerance=2e-6)


@pytest.mark.thorough
def test_what_was_saved_is_the_same_on_any_number(on):
    """Weights, the optimiser's state, averages and the best epoch, bit by bit after reading, nearly after training."""
    two, four = (whole(on(ranks)[0] / "checkpoints" / FIRST) for ranks in (2, 4))
    assert two.keys() == four.keys()
    kinds = {name.partition("/")[0] for name in two}
    assert kinds == {"model", "optimizer", "average"}
    assert "best" in {name.partition("/")[0] for name in whole(on(2)[0] / "checkpoints" / LAST)}
    for name, value in two.items():
        assert torch.allclose(value.float(), four[name].float(), rtol=1e-4, atol=2e-6), name
    moments = [value for name, value in two.items() if name.endswith("visual.conv1.weight/exp_avg")]
    assert len(moments) == 1 and moments[0].abs().max() > 0


def whole(folder: Path) -> dict[str, torch.Tensor]:
    index = read_index(folder)["tensors"]
    tensors = {name: torch.empty(about["shape"], dtype=DTYPES[about["dtype"]]) for name, about in index.items()}
    load_sharded(folder, tensors)
    return tensors


def test_each_process_writes_its_part_and_nothing_is_a_pickle(on):
    folder = on(2)[0] / "checkpoints" / LAST
    assert {path.name for path in folder.iterdir()} == {
        *("index.json", "index.json.sha256", "part-00000.safetensors", "part-00001.safetensors")
    }
    sizes = [path.stat().st_size for path in sorted(folder.glob("part-*"))]
    assert max(sizes) < 1.2 * min(sizes)
    for path in folder.iterdir():
        assert path.read_bytes()[:1] != b"\x80" and path.read_bytes()[:2] != b"PK"
    index = json.loads((folder / "index.json").read_text())
    assert index["facts"]["step"] == 4


@pytest.mark.thorough
def test_the_training_goes_on_while_a_checkpoint_is_written(job, on, tmp_path):
    folder = tmp_path / "slow"
    done = run({**job, "folder": str(folder), "disk": "slow"}, 2)
    assert [line for line in done["said"] if "partial" in line] == [f".{FIRST}.partial: True"]
    assert_same(on(2)[1], done)
    assert [path.name for path in checkpoints(folder / "checkpoints")] == [FIRST, LAST]


def test_a_full_disk_on_one_process_ends_all_with_one_line_and_loses_nothing(job, on, tmp_path):
    place = {**job, "folder": str(tmp_path)}
    codes, lines = ends({**place, "disk": "full"}, 2)
    assert codes == [1, 1] and lines[0] == lines[1]
    assert "cannot be written there (No space left on device); free some space or give another --out" in lines[0]
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [FIRST]
    again = run({**place, "resume": True}, 2)
    assert "Resumed at step 2 of 4" in again["said"][0]
    assert_same(on(2)[1], again)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("change", ["part", "missing", "index", "digest"])
def test_a_damaged_one_is_passed_over(on, tmp_path, change):
    shutil.copytree(on(2)[0] / "checkpoints", tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints" / LAST, change)
    state, path, notes = newest_checkpoint(tmp_path / "checkpoints")
    assert (state["facts"]["step"], path.name) == (2, FIRST) and f"{LAST}: damaged" in notes[0]


@pytest.mark.thorough
def test_a_training_goes_on_from_the_one_before_a_damaged_one(job, on, tmp_path):
    folder, end = on(2)
    place = tmp_path / "resumed"
    shutil.copytree(folder, place)
    damage(place / "checkpoints" / LAST, "part")
    again = run({**job, "folder": str(place), "resume": True}, 2)
    assert f"{LAST}: damaged" in again["said"][0] and "Resumed at step 2 of 4" in again["said"][1]
    assert_same(end, again)
    state, path, notes = newest_checkpoint(place / "checkpoints")
    assert (state["facts"]["step"], path.name, notes) == (4, LAST, [])


def damage(newest: Path, change: str) -> None:
    if change == "part":
        part = newest / "part-00001.safetensors"
        part.write_bytes(part.read_bytes()[:-1] + b"x")
    elif change == "missing":
        (newest / "part-00000.safetensors").unlink()
    elif change == "index":
        (newest / "index.json").write_text(json.dumps({**read_index(newest), "files": {}}))
    else:
        (newest / "index.json.sha256").unlink()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_of_another_model_is_refused_in_one_line(job, on, tmp_path, ranks):
    place = tmp_path / "resumed"
    shutil.copytree(on(2)[0], place)
    wider = {**job["loss_options"], "slip": {"mlp_dim": 16, "emb_dim": 16}}
    codes, lines = ends({**job, "loss_options": wider, "folder": str(place), "resume": True}, ranks)
    assert codes == [1] * ranks and len(set(lines)) == 1
    assert "from another model: its weight 'objective.losses.slip." in lines[0]
    assert "shape (32,), this model's (16,)" in lines[0]


def test_a_folder_that_is_not_shared_is_refused_before_the_first_step(job, tmp_path):
    codes, lines = ends({**job, "folder": str(tmp_path / "{rank}")}, 2)
    assert codes == [1, 1] and len({line.partition("checkpoints: ")[2] for line in lines}) == 1
    assert "rank 1 does not see what rank 0 writes there" in lines[0] and "one --out that they share" in lines[0]


def ends(job: dict, ranks: int) -> tuple[list[int], list[str]]:
    """Exit codes, and the last lines of stderr."""
    with Group([Path(__file__).with_name("training_process.py"), json.dumps(job)], ranks) as group:
        done = group.finished()
    lines = [(each.stderr.strip().splitlines() or [""])[-1].split("]: ")[-1] for each in done]  # after "[rank0]: "
    return [each.returncode for each in done], lines


def test_the_library_reads_what_we_write(tmp_path):
    from safetensors.torch import load_file

    tensors = {
        "halves": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "flags": torch.tensor([True, False, True]),
        "number": torch.tensor(3.5, dtype=torch.float64),
        "nothing": torch.zeros(0, 4),
        "counts": torch.tensor([1, -2]),
    }
    write_safetensors(tmp_path / "file", tensors)
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())
