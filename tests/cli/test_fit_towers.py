"""`vladapt fit` of adapters that train towers, as processes: killed and resumed, started together, read by a user."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from forked import run, run_ranks
from safetensors.torch import load_file

from vladapt.core.confidence import CALIBRATION

ALL_DRAWINGS = True

KILLED = """
import os, signal, sys
from vladapt.core.training import resume

save = resume.ResumeHook.after_train_iter

def save_and_die(self, runner, *rest, **named):
    save(self, runner, *rest, **named)
    if runner.iter + 1 == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

resume.ResumeHook.after_train_iter = save_and_die
from vladapt.cli import main
main(sys.argv[2:])
"""
EPOCHS = "4"
OPTIONS = {
    "lora": ["--lr", "2e-2"],
    "lit": ["--lr", "2e-3"],
}


@pytest.fixture
def arguments(small_clip_spec, colours) -> list[str]:
    pytest.importorskip("peft", reason="extra fine-tune is not installed")
    few = ["--shots", "4", "--epochs", EPOCHS, "--batch-size", "4", "--set", "adapter.save_every=2"]
    return ["fit", "--domain", "medical", "--data", str(colours), "--backbone", small_clip_spec, *few]


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    return {**os.environ, "VLADAPT_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def process(tmp_path, environment):
    """process(arguments, kill_at=None) -> the finished process, in a folder of its own."""

    def command(arguments, kill_at=None):
        words = ["-m", "vladapt"] if kill_at is None else ["-c", KILLED, kill_at]
        return run([*words, *arguments], env=environment, cwd=tmp_path)

    return command


def learned(done, folder: Path) -> dict[str, torch.Tensor]:
    assert done.returncode == 0, done.stderr
    return load_file(folder / json.loads(done.stdout)["run"] / "adapter.safetensors")


def assert_same(one: dict, other: dict, tolerance: float = 0.0) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=0, atol=tolerance), name


def test_a_killed_fit_goes_on_and_ends_as_if_it_had_not_been(arguments, process, tmp_path):
    """Though with another number of workers: what costs only time or memory may change."""
    arguments = [*arguments, "--adapter", "lora", *OPTIONS["lora"], "--json"]
    whole = learned(process([*arguments, "--out", "whole"]), tmp_path)
    killed = process([*arguments, "--out", "killed"], kill_at=7)
    assert killed.returncode == -signal.SIGKILL
    left = list((tmp_path / "killed" / ".resume").iterdir())
    assert len(left) == 1 and len(left[0].name) == 16
    again = process([*arguments, "--out", "killed", "--resume", "--workers", "1"])
    assert f"Resumed at step 6 of 12 from killed/.resume/{left[0].name}" in again.stderr
    assert_same(whole, learned(again, tmp_path))
    assert not (tmp_path / "killed" / ".resume").exists()


def test_an_unfinished_fit_is_not_started_anew_unasked(arguments, process, tmp_path):
    arguments = [*arguments, "--adapter", "lit", *OPTIONS["lit"], "--json"]
    process(arguments, kill_at=3)
    refused = process(arguments)
    assert refused.returncode == 2 and refused.stdout == ""
    assert "this fit was stopped after step 2; add --resume to continue it" in refused.stderr
    other = process([*arguments, "--seed", "5"])
    assert other.returncode == 0, "another seed is another fit"
    assert len(list((tmp_path / "runs" / ".resume").iterdir())) == 1


def test_a_stopped_fit_says_where_its_checkpoints_are(arguments, process, tmp_path):
    """Here by an error of the training itself."""
    done = process([*arguments, "--adapter", "full", "--lr", "1e9", "--set", "adapter.save_every=1"])
    assert done.returncode == 1
    assert "the same command with --resume continues from it" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("vladapt: training stopped at step")


@pytest.mark.thorough(but=("lora",))
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_train_as_one(arguments, process, tmp_path, environment, name):
    arguments = ["2" if word is EPOCHS else word for word in arguments]
    arguments += ["--adapter", name, "--lr", "1e-4", "--json"]
    arguments += ["--set", "adapter.dropout=0"] if name == "lora" else []
    one = learned(process([*arguments, "--out", "one"]), tmp_path)
    first, second = run_ranks(["-m", "vladapt", *arguments, "--out", "two"], env=environment, cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr
    said = [line for line in second.stderr.splitlines() if "reducer.cpp" not in line]  # torch's own, from C++
    assert second.stdout == "" and said == []
    two = load_file(tmp_path / json.loads(first.stdout)["run"] / "adapter.safetensors")
    assert_same(without_key_biases(one), without_key_biases(two), tolerance=1e-5)
    assert not (tmp_path / "two" / ".resume").exists()


def without_key_biases(weights: dict) -> dict:
    """A bias of the keys changes no attention, so its gradient is rounding, of which AdamW makes whole steps."""
    kept = dict(weights)
    for name in weights:
        if name.endswith("in_proj_bias"):
            query, _, value = kept.pop(name).chunk(3)
            kept[name] = torch.cat([query, value])
    return kept


def test_what_a_user_reads(fit, colours):
    outcome = fit("--data", colours, "--adapter", "full", "--shots", 4, "--epochs", 12, "--lr", "2e-3", "--amp", "bf16")
    lines = [
        line for line in outcome.err.splitlines() if not line.startswith(("Training full: ", "Generic"))
    ]  # if long
    assert lines[0] == "Fitting full on 12 images" and lines[-1] == "Naming 150 generic images before and after"
    assert lines[1].startswith("Step 2/12: loss ") and "learning rate" in lines[1] and len(lines) == 12
    assert "Chosen: epochs 12, steps 12, lr 0.002" in outcome.out
    assert "Note: Generic vocabulary (130 words, 150 drawings): " in outcome.out
    files = {path.name for path in next(Path("runs").iterdir()).iterdir()}
    written = {"run.json", "metrics.json", "adapter.safetensors", "labelled.safetensors", CALIBRATION}
    written |= {"log.txt", "report.html"}
    assert files == written | {"linear-probe.safetensors", "training.jsonl"}


def test_losses_may_be_several(fit, colours):
    both = ["--loss", "cross-entropy", "--loss", "distill=0.5"]
    made = fit("--data", colours, "--adapter", "full", "--epochs", 1, *both, "--json").json
    kept = json.loads((Path(made["run"]) / "run.json").read_text())
    assert kept["adapter_options"]["loss"] == "cross-entropy,distill=0.5"
    assert {"cross-entropy", "distill"} <= set(kept["fit"]["history"][0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--loss", "contrastive"], "unknown loss 'contrastive'"),
        (["--loss", "clip=much"], "--loss clip=much"),
        (["--set", "adapter.last=0"], "option last=0 of adapter 'full' is not usable; give a whole number"),
        (["--set", "adapter.patience=2"], "option patience=2 is not usable; add select=best_val"),
        (["--batch-size", "1"], "option batch_size=1 of adapter 'full' is not usable; give a whole number"),
        (["--amp", "int8"], "--amp int8"),
        (["--loss", "triplet-clip"], "needs 'image_negative'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(fit, colours, wrong, said):
    outcome = fit("--data", colours, "--adapter", "full", "--epochs", 1, *wrong)
    assert outcome.code in (1, 2) and said in outcome.err.strip().splitlines()[-1]
    assert not Path("runs").exists()
