"""Optimizers of mm configs whose rates fall with the depth of the vision tower."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from torch import nn

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError, UnknownNameError


class Model(nn.Module):
    def __init__(self, spec: str, **options):
        super().__init__()
        self.backbone = MODELS.build({"type": "vladapt.CLIPVisionBackbone", "backbone": spec, **options})
        self.head = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))


def groups(model: nn.Module, optimizer: dict | None = None, **paramwise) -> dict[str, tuple[float, float]]:
    """Name -> (lr, weight decay)."""
    config = {
        "type": "OptimWrapper",
        "constructor": "vladapt.LayerDecayOptimWrapperConstructor",
        "optimizer": optimizer or {"type": "AdamW", "lr": 1.0, "weight_decay": 0.1},
    }
    if paramwise:
        config["paramwise_cfg"] = paramwise
    wrapper = build_optim_wrapper(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    every = [(names.get(id(p)), (g["lr"], g["weight_decay"])) for g in wrapper.param_groups for p in g["params"]]
    listed = [(name, rates) for name, rates in every if name]  # mmengine adds a group of its own, to log the base lr
    assert len(listed) == len(dict(listed))
    return dict(listed)


def test_rates_fall_with_depth_and_the_rest_learns_at_lr(towers):
    model = Model(towers["vit"])
    found = groups(model, layer_decay=0.5)
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    visual = "backbone.tower.visual."
    assert found[f"{visual}conv1.weight"] == (0.5**5, 0.1)
    assert found[f"{visual}transformer.resblocks.0.mlp.c_fc.weight"] == (0.5**4, 0.1)
    assert found[f"{visual}transformer.resblocks.3.attn.in_proj_weight"] == (0.5, 0.1)
    assert found["head.0.weight"] == (1.0, 0.1)
    assert found["backbone.pyramid.levels.1.0.weight"] == (1.0, 0.1)


def test_norms_and_biases_do_not_decay_unless_asked(towers):
    model = Model(towers["vit"])
    spared = ["backbone.tower.visual.transformer.resblocks.0.ln_1.weight", "head.0.bias", "head.1.weight"]
    assert {groups(model)[name][1] for name in spared} == {0.0}
    assert {groups(model, decay_all=True)[name][1] for name in spared} == {0.1}


def test_the_default_is_that_of_vitdet_and_the_tower_may_be_slower_as_a_whole(towers):
    model = Model(towers["vit"])
    deepest = "backbone.tower.visual.transformer.resblocks.3.mlp.c_fc.weight"
    assert groups(model)[deepest][0] == pytest.approx(0.7)
    slower = groups(model, backbone_lr_mult=0.1)
    assert slower[deepest][0] == pytest.approx(0.07)
    assert slower["head.0.weight"][0] == 1.0


def test_lora_and_cnn_stages_have_depths_too(towers):
    lora = groups(Model(towers["vit"], lora={"r": 2}), layer_decay=0.5)
    assert {rate for name, (rate, _) in lora.items() if "resblocks.3." in name} == {0.5}
    assert {rate for name, (rate, _) in lora.items() if "resblocks.0." in name} == {0.5**4}
    resnet = groups(Model(towers["resnet"]), layer_decay=0.5)
    assert resnet["backbone.tower.visual.layer2.0.conv1.weight"][0] == 0.5**3


def test_a_frozen_tower_leaves_the_rest(towers):
    assert all(name.startswith(("head.", "backbone.pyramid.")) for name in groups(Model(towers["vit"], frozen=True)))


def test_what_cannot_be_is_said_in_one_line(towers):
    model = Model(towers["vit"])
    with pytest.raises(UnknownNameError, match="did you mean layer_decay"):
        groups(model, layer_decays=0.5)
    with pytest.raises(ConfigError, match="layer_decay"):
        groups(model, layer_decay=1.5)
    with pytest.raises(ConfigError, match="backbone_lr_mult"):
        groups(model, backbone_lr_mult=0)
    with pytest.raises(ConfigError, match="names no lr"):
        groups(model, {"type": "AdamW"})
    with pytest.raises(ConfigError, match="no vision tower"):
        groups(nn.Linear(2, 2))
