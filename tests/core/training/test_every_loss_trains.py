"""Every objective, from pairs to weights: what it needs is made, and micro-batches change nothing."""

from __future__ import annotations

import pytest
import torch

from vladapt import CapabilityError, build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.registry import catalogue
from vladapt.core.training.model import dims_of
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

NAMES = sorted(name for name, entry in catalogue.losses().items() if entry.entry_point is None)
NOT_OF_PAIRS = {"binary-cross-entropy", "stored-replay"}
"""One needs several labels, one a file of earlier pairs."""
OF_QUERIES = {
    "width": 8,
    "heads": 2,
    "layers": 1,
    "hidden": 8,
    "dropout": 0.0,
    "positions": {"left": "l", "right": "r"},
}
OF_QUERIES |= {"findings": dict.fromkeys(("red", "green", "blue", "yellow"), "a colour")}
OF_ENTITIES = {"width": 8, "heads": 2, "hidden": 8, "layers": 2, "dropout": 0.0, "patch_layer": 1}
OF_ENTITIES |= {"entity_width": 8, "entity_heads": 2, "entity_hidden": 8, "graph_width": 4, "graph_heads": 2}
OF_ENTITIES |= {"graph_dropout": 0.0, "decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2}
OF_ENTITIES |= {"entities": {name: [name] for name in ("red", "green", "blue", "yellow")}, "triples": {"red": ["blue"]}}
NARROW = {
    "arl": OF_ENTITIES,
    "medklip": OF_QUERIES,
    "medslip": OF_QUERIES,
    "dino-v2": {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16, "local_crops": 2},
    "slip": {"mlp_dim": 32, "emb_dim": 16},
    "silc": {"out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16},
    "protoclip": {"hidden_dim": 32, "projection_dim": 16},
    "declip": {"queue_size": 64, "projector_width": 32, "predictor_width": 16},
    "prolip": {"masked": True},
    "unicl": {"n_prefix": 2},
    "long-clip": {"components": 4},
    "sdm": {"image_ids": True},
    "irra": {"depth": 1},
    "masked-words": {"depth": 1},
    "plip": {"reader_width": 16},
    "rde": {"selection_dim": 16},
    "tbps-clip": {"mlp_dim": 16, "emb_dim": 16},
    "unipt": {"decoder_width": 32, "decoder_depth": 1},
}


def trained(spec, source, name, micro=None):
    backbone = load_backbone(spec, device="cpu")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    prompts = [[f"a {colour} area"] for colour in ("red", "green", "blue", "yellow")]
    built = build_loss(name, dims_of(backbone, len(source), prompts, None, 4), **NARROW.get(name, {}))
    teachers = [another(spec)] if built.teacher == "frozen" else []
    task = TrainingTask(source, {name: 1.0}, {name: NARROW.get(name, {})}, class_prompts=prompts, teachers=teachers)
    settings = TrainingSettings(
        epochs=1, batch_size=8, micro_batch_size=micro, lr=1e-4, optimizer="sgd", warmup=0, crop_scale=(0.9, 1.0)
    )
    done = train(backbone, task, settings, None)
    return before, backbone.model.state_dict(), done


def another(spec):
    """A teacher that differs from the student a little."""
    teacher = load_backbone(spec, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return teacher


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_OF_PAIRS])
def test_it_trains_towers_and_micro_batches_change_nothing(name, small_clip_spec, toy_pairs):
    before, after, whole = trained(small_clip_spec, toy_pairs(16), name)
    assert any(before[key].shape != value.shape or not torch.equal(before[key], value) for key, value in after.items())
    assert whole.history[0]["loss"] == pytest.approx(whole.history[0][name])
    _, again, parts = trained(small_clip_spec, toy_pairs(16), name, micro=3)
    assert parts.history[0]["loss"] == pytest.approx(whole.history[0]["loss"], rel=1e-4)
    assert max(float((after[key] - again[key]).abs().max()) for key in after) < 1e-5


def test_what_no_pairs_hold_is_said(small_clip_spec, toy_pairs):
    pairs = toy_pairs(16)
    pairs.columns = {}
    with pytest.raises(CapabilityError, match=r"'image_findings' .*a column 'findings'"):
        trained(small_clip_spec, pairs, "medclip")


def test_what_a_tower_lacks_is_said(open_clip_resnet, toy_pairs):
    """A ResNet has no transformer blocks for an uncertainty token."""
    with pytest.raises(CapabilityError):
        trained(open_clip_resnet, toy_pairs(16), "prolip")
