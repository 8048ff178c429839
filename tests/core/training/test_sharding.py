"""Weights that are sharded over two processes are trained as those that each process holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import run_ranks
from test_every_loss_trains import NAMES, NARROW, NOT_OF_PAIRS
from torch.torch_version import TorchVersion

from vladapt import CapabilityError
from vladapt.core.training import sharding

UNITS = 1 + 2 + 1
"""The root, two blocks of the image tower and one of the text tower."""


TOGETHER = (
    ("cross-entropy", "declip", "dreamlip", "long-clip", "momentum-queue", "slip"),
    ("distill", "filip", "matryoshka"),
    ("m-flag", "ro-vit"),
    ("prolip",),
    ("protoclip",),
)
"""Losses that one training can have, since most of its time goes by however many there are."""


SETTINGS = (
    {"checkpointing": True, "micro_batch_size": 2, "ema": 0.5, "steps": 4, "epochs": 2},
    {"epoch_average": (1.0, 1.0), "steps": None, "epochs": 2, "train_last": 1},
    {"lora": 2, "checkpointing": True},
    {"lock": "image", "optimizer": "adamw", "eps": 1e-3, "clip_grad": 0.1, "layer_decay": 0.5},
)
FUSED = {"optimizer": "adamw", "eps": 1e-3, "clip_grad": 1.0, "epochs": 3, "steps": 6, "lr": 1e-3}
HALVES = {"checkpointing": True, "epochs": 3, "steps": 6, "lr": 1e-3}
WARMING = {"losses": {"protoclip": 1.0}, "loss_options": {"protoclip": {**NARROW["protoclip"], "warmup_episodes": 1}}}
"""ProtoCLIP's heads have no gradient in its warm-up episodes."""
OF_CLIP = {"losses": {"clip": 1.0}}
OF_TWO = {"losses": {"clip": 1.0, "silc": 0.5}, "loss_options": {"silc": NARROW["silc"]}, "validate": True}


def job_of(names: tuple[str, ...]) -> dict:
    return {
        "losses": dict.fromkeys(names, 1.0),
        "loss_options": {name: NARROW.get(name, {}) for name in names},
        "settings": {"steps": 2},  # the second sees what the first wrote to shards and queues
        "teacher": True,
    }


JOBS = {
    **{f"setting {place}": {**OF_TWO, "settings": one} for place, one in enumerate(SETTINGS)},
    **{f"fused {amp}": {**OF_CLIP, "settings": {**FUSED, "amp": amp}, "fused": True} for amp in (None, "fp16")},
    **{f"half {amp}": {**OF_CLIP, "settings": {**HALVES, "amp": amp}, "validate": True} for amp in ("bf16", "fp16")},
    **{f"micro {micro}": {**OF_CLIP, "settings": {"micro_batch_size": micro, "steps": 1}} for micro in (None, 2, 4)},
    "told": WARMING,
    "untold": {**WARMING, "static": True},
}


def ends_of(jobs: dict, spec: str) -> dict:
    """What each job ended with, of one pair of processes: a start takes as long as a training."""
    script = Path(__file__).with_name("sharded_process.py")
    done = run_ranks([script, json.dumps({"spec": spec, "jobs": list(jobs.values())})])
    assert done[0].stdout, done[0].stderr[-3000:]
    return dict(zip(jobs, json.loads(done[0].stdout), strict=True))


@pytest.fixture(scope="module")
def ended(small_clip_spec) -> dict:
    return ends_of(JOBS, small_clip_spec)


@pytest.mark.thorough(but=("distill", "prolip"))
@pytest.mark.parametrize("names", TOGETHER, ids=" ".join)
def test_losses_of_every_kind(small_clip_spec, names):
    """Those that reach into the towers or hold weights, each in its own way; others only see projected features."""
    assert {*names} <= {*NAMES} - NOT_OF_PAIRS
    found = ends_of({names: job_of(names)}, small_clip_spec)[names]
    assert isinstance(found, dict), found
    assert found["units"] >= UNITS
    assert found["moved"] > 1e-5
    assert found["weights"] < 2e-6, found
    assert found["loss"] < 1e-5, found


def test_a_loss_whose_graph_changes_is_trained_if_it_says_so(ended):
    told, untold = ended["told"], ended["untold"]
    assert isinstance(told, dict) and told["weights"] < 2e-6, told
    assert "CapabilityError: loss protoclip: its steps do not all reach the same weights; set graph_changes" in untold


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_a_fused_optimiser_updates_shards(ended, amp):
    """As on a GPU, where it is told on the device to leave a step out."""
    found = ended[f"fused {amp}"]
    assert isinstance(found, dict), found
    assert found["moved"] > 1e-4
    assert found["weights"] < (1e-5 if amp is None else 0.02 * found["moved"]), found


def test_a_torch_that_cannot_is_refused_in_one_line(fresh_clip, monkeypatch):
    monkeypatch.setattr(sharding.torch, "__version__", TorchVersion("2.6.0"))
    with pytest.raises(CapabilityError, match=r"parallel=fsdp needs torch 2.7 or later, this is 2.6.0; update torch"):
        sharding.shard(fresh_clip.model, [fresh_clip], set(), None)


@pytest.mark.parametrize("micro", [None, 2, 4])
def test_the_graph_is_static_without_micro_batches(ended, micro):
    found = ended[f"micro {micro}"]
    assert found["static"] == (micro != 2), "4 rows per process are one part of 4"


@pytest.mark.parametrize("place", range(len(SETTINGS)))
def test_every_setting(ended, place):
    found = ended[f"setting {place}"]
    assert isinstance(found, dict), found
    assert found["moved"] > 1e-5 and found["units"] >= UNITS, found
    assert found["weights"] < 1e-5 and found["loss"] < 1e-5, found


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision(ended, amp):
    """Blocks that are gathered in bf16 give what autocast makes of whole weights."""
    found = ended[f"half {amp}"]
    assert isinstance(found, dict), found
    assert found["units"] == UNITS
    assert found["moved"] > 1e-4
    assert found["weights"] < 0.02 * found["moved"], found
