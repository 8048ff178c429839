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


def differences(spec: str, jobs: list[dict], ranks: int = 2) -> list:
    script = Path(__file__).with_name("sharded_process.py")
    done = run_ranks([script, json.dumps({"spec": spec, "jobs": jobs})], ranks)
    assert done[0].stdout, done[0].stderr[-3000:]
    return json.loads(done[0].stdout)


def test_losses_of_every_kind(small_clip_spec):
    """Those that reach into the towers or hold weights, each in its own way; others only see projected features."""
    assert {name for names in TOGETHER for name in names} <= {*NAMES} - NOT_OF_PAIRS
    jobs = [
        {
            "losses": dict.fromkeys(names, 1.0),
            "loss_options": {name: NARROW.get(name, {}) for name in names},
            "settings": {"steps": 2},  # the second sees what the first wrote to shards and queues
            "teacher": True,
        }
        for names in TOGETHER
    ]
    for names, found in zip(TOGETHER, differences(small_clip_spec, jobs), strict=True):
        assert isinstance(found, dict), f"{names}: {found}"
        assert found["units"] >= UNITS, names
        assert found["moved"] > 1e-5, names
        assert found["weights"] < 2e-6, (names, found)
        assert found["loss"] < 1e-5, (names, found)


def test_a_loss_whose_graph_changes_is_trained_if_it_says_so(small_clip_spec):
    """ProtoCLIP's heads have no gradient in its warm-up episodes."""
    options = {"protoclip": {**NARROW["protoclip"], "warmup_episodes": 1}}
    job = {"losses": {"protoclip": 1.0}, "loss_options": options}
    told, untold = differences(small_clip_spec, [job, {**job, "static": True}])
    assert isinstance(told, dict) and told["weights"] < 2e-6, told
    assert "CapabilityError: loss protoclip: its steps do not all reach the same weights; set graph_changes" in untold


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_a_fused_optimiser_updates_shards(small_clip_spec, amp):
    """As on a GPU, where it is told on the device to leave a step out."""
    settings = {"optimizer": "adamw", "eps": 1e-3, "clip_grad": 1.0, "amp": amp, "epochs": 3, "steps": 6, "lr": 1e-3}
    job = {"losses": {"clip": 1.0}, "settings": settings, "fused": True}
    (found,) = differences(small_clip_spec, [job])
    assert isinstance(found, dict), found
    assert found["moved"] > 1e-4
    assert found["weights"] < (1e-5 if amp is None else 0.02 * found["moved"]), found


def test_a_torch_that_cannot_is_refused_in_one_line(fresh_clip, monkeypatch):
    monkeypatch.setattr(sharding.torch, "__version__", TorchVersion("2.6.0"))
    with pytest.raises(CapabilityError, match=r"parallel=fsdp needs torch 2.7 or later, this is 2.6.0; update torch"):
        sharding.shard(fresh_clip.model, [fresh_clip], set(), None)


@pytest.mark.parametrize("micro", [None, 2, 4])
def test_the_graph_is_static_without_micro_batches(small_clip_spec, micro):
    job = {"losses": {"clip": 1.0}, "settings": {"micro_batch_size": micro, "steps": 1}}
    (found,) = differences(small_clip_spec, [job])
    assert found["static"] == (micro != 2), "4 rows per process are one part of 4"


SETTINGS = [
    {"checkpointing": True, "micro_batch_size": 2, "ema": 0.5, "steps": 4, "epochs": 2},
    {"epoch_average": (1.0, 1.0), "steps": None, "epochs": 2, "train_last": 1},
    {"lora": 2, "checkpointing": True},
    {"lock": "image", "optimizer": "adamw", "eps": 1e-3, "clip_grad": 0.1, "layer_decay": 0.5},
]


def test_every_setting(small_clip_spec):
    jobs = [{"losses": {"clip": 1.0, "silc": 0.5}, "loss_options": NARROW, "settings": one} for one in SETTINGS]
    jobs = [{**job, "loss_options": {"silc": NARROW["silc"]}, "validate": True} for job in jobs]
    for settings, found in zip(SETTINGS, differences(small_clip_spec, jobs), strict=True):
        assert isinstance(found, dict), f"{settings}: {found}"
        assert found["moved"] > 1e-5 and found["units"] >= UNITS, (settings, found)
        assert found["weights"] < 1e-5 and found["loss"] < 1e-5, (settings, found)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision(small_clip_spec, amp):
    """Blocks that are gathered in bf16 give what autocast makes of whole weights."""
    settings = {"amp": amp, "checkpointing": True, "epochs": 3, "steps": 6, "lr": 1e-3}
    job = {"losses": {"clip": 1.0}, "settings": settings, "validate": True}
    (found,) = differences(small_clip_spec, [job])
    assert isinstance(found, dict), found
    assert found["units"] == UNITS
    assert found["moved"] > 1e-4
    assert found["weights"] < 0.02 * found["moved"], found
