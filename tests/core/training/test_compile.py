"""The towers' passes are compiled as one graph, and give what they give without."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from test_every_loss_trains import NARROW
from torch._dynamo.utils import counters

from vladapt.core.backbones.load import load_backbone
from vladapt.core.training import tower_outputs
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

SETTINGS = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "optimizer": "sgd", "warmup": 0.0, "seed": 3}
PROMPTS = [[f"a {colour} area", colour] for colour in ("red", "green", "blue", "yellow")]


@pytest.fixture
def compiled(monkeypatch, backend):
    """Compiling stops before code is generated, which takes a compiler and minutes; with "eager", before gradients are
    traced, too."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(tower_outputs.torch, "compile", partial(torch.compile, backend=backend))
    yield
    torch._dynamo.reset()


def weights(backbone, source, losses, **settings):
    options = {name: NARROW[name] for name in losses if name in NARROW}
    task = TrainingTask(source, losses, options, class_prompts=PROMPTS)
    train(backbone, task, TrainingSettings(**{**SETTINGS, **settings}), None)
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


@pytest.mark.thorough(but=("clip-", "resnet"))
@pytest.mark.parametrize(
    ("kind", "losses", "backend"),
    [
        ("open_clip", {"clip": 1.0}, "aot_eager"),
        ("open_clip", {"silc": 1.0, "cross-entropy": 1.0, "slip": 1.0, "declip": 1.0}, "eager"),
        ("open_clip checkpointed", {"silc": 1.0}, "aot_eager"),
        ("resnet", {"siglip": 1.0}, "aot_eager"),
        ("clip", {"clip": 1.0}, "eager"),
        ("siglip", {"siglip": 1.0}, "eager"),
        ("chinese_clip", {"clip": 1.0}, "eager"),
        ("embedded", {"clip": 1.0}, "eager"),
    ],
    ids=str,
)
def test_each_backbone_is_one_graph(kind, losses, write_clip, request, toy_pairs, compiled):
    kind, _, checkpointed = kind.partition(" ")
    if kind in ("open_clip", "resnet"):
        short = write_clip(width=8, layers=1)  # to trace a block takes seconds
        spec = short if kind == "open_clip" else request.getfixturevalue("open_clip_resnet")
    else:
        spec = kind if kind == "embedded" else f"hf:{request.getfixturevalue('hf_folder')(kind)}"
    size = {"image_size": 64} if kind == "embedded" else {}
    one = load_backbone(spec, device="cpu", **size)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    plain = weights(load_backbone(spec, device="cpu", **size), toy_pairs(16), losses)
    assert not counters["stats"], "nothing is compiled unless it is asked for"
    fast = weights(one, toy_pairs(16), losses, compile=True, checkpointing=bool(checkpointed))
    assert sum(counters["graph_break"].values()) <= 1, counters["graph_break"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 2, "once more where texts have other lengths"
    moved = max(float((before[name] - value).abs().max()) for name, value in plain.items())
    differ = max(float((fast[name] - value).abs().max()) for name, value in plain.items())
    assert moved > 1e-5 and differ < 1e-2 * moved
