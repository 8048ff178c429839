"""Configs for images of more than three channels, and of more than 8 bits: first layers, pixels, transforms, rates."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_state_dict

from vladapt.core.contracts import InputChannels
from vladapt.core.errors import CapabilityError
from vladapt.domains.open_vocab.domain import OpenVocab
from vladapt.domains.open_vocab.modules.backbones.channels import WidenedBackbone
from vladapt.domains.open_vocab.modules.backbones.clip_vision import CLIPVisionBackbone
from vladapt.domains.open_vocab.plans.channels import check_channels, on_channels, on_depth
from vladapt.domains.open_vocab.plans.pipelines import nodes
from vladapt.domains.open_vocab.plans.schedule import put_on_backbone
from vladapt.registry import MODELS

NAMES = ("red", "green", "blue", "nir", "swir")
RESNET = {"type": "ResNet", "depth": 18, "base_channels": 8, "num_stages": 4, "norm_eval": True}
FROZEN = {"type": "X", "backbone": {}, "data_preprocessor": {"type": "DetDataPreprocessor"}, "frozen_tower": {}}
STATISTICS = (0.1, 0.2, 0.3, 0.4, 0.5), (0.2, 0.25, 0.3, 0.35, 0.4)


def packaged(name, spec):
    config = Config.fromfile(str(OpenVocab().recipes[name])).to_dict()
    put_on_backbone(config, spec)
    return config


def typed(value, name):
    return [node for node in nodes(value) if str(node.get("type", "")).rsplit(".", 1)[-1] == name]


def resnet(start=InputChannels.ZERO):
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = WidenedBackbone(RESNET, NAMES, start)
    model.eval()  # of mmdet's, it gives nothing
    return model


def of_three():
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(dict(RESNET))
    model.eval()
    return model


@pytest.mark.parametrize("kind", ["resnet", "clip"])
def test_channels_that_start_at_zero_change_nothing_until_they_are_trained(kind, small_clip_spec):
    if kind == "resnet":
        wide, narrow = resnet(), of_three()
    else:
        told = {"names": NAMES, "start": "zero"}
        wide = CLIPVisionBackbone(small_clip_spec, pyramid="taps", frozen_stages=1, channels=told).eval()
        narrow = CLIPVisionBackbone(small_clip_spec, pyramid="taps").eval()
    pixels = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    for one, other in zip(wide(pixels), narrow(pixels[:, :3])):
        torch.testing.assert_close(one, other)
    sum(each.square().mean() for each in wide(pixels)).backward()
    taken = next(m for m in wide.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels == 5)
    assert taken.weight.requires_grad and taken.weight.grad[:, 3:].abs().sum() > 0


def test_channels_that_start_from_the_mean_see_a_grey_picture_as_before():
    grey = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for one, other in zip(
        resnet(InputChannels.MEAN)(grey.expand(-1, 5, -1, -1)), of_three()(grey.expand(-1, 3, -1, -1))
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_start_of_other_bands_is_refused_and_one_of_these_keeps_its_statistics(small_clip_spec):
    plan = packaged("fpn", small_clip_spec)
    init_default_scope("mmseg")
    on_channels(plan, InputChannels(NAMES), STATISTICS)
    again = {key: plan[key] for key in ("model", "train_dataloader", "optim_wrapper", "default_scope")}
    notes = on_channels(again, InputChannels(NAMES), (STATISTICS[1], STATISTICS[0]))
    assert again["model"]["data_preprocessor"]["mean"] == pytest.approx([255 * m for m in STATISTICS[0]])
    assert notes[0] == "The backbone has learned red, green, blue, nir, swir."
    with pytest.raises(CapabilityError, match="the model learned red,green,blue,nir,swir; give these"):
        on_channels(again, InputChannels(NAMES[:4]), None)


def test_a_tower_loads_weights_of_three_channels(small_clip_spec):
    narrow = CLIPVisionBackbone(small_clip_spec, pyramid="taps")
    wide = CLIPVisionBackbone(small_clip_spec, pyramid="taps", channels={"names": NAMES, "start": "zero"})
    wide.load_state_dict({name: value + 1 for name, value in narrow.state_dict().items()})
    pairs = [(one, other) for one, other in zip(wide.parameters(), narrow.parameters()) if one.shape != other.shape]
    assert len(pairs) == 1 and torch.equal(pairs[0][0][:, :3], pairs[0][1] + 1) and not pairs[0][0][:, 3:].any()


@pytest.mark.parametrize("loaded", [load_state_dict, lambda model, state: model.load_state_dict(state)])
def test_weights_of_three_channels_are_widened_as_they_are_loaded_and_names_stay(loaded):
    state, wide = of_three().state_dict(), resnet()
    assert set(state) == set(wide.state_dict())
    loaded(wide, {name: value + 1 for name, value in state.items()})
    assert torch.equal(wide.conv1.weight[:, :3], state["conv1.weight"] + 1) and (wide.conv1.weight[:, 3:] == 0).all()
    trained = {name: torch.full_like(value, 2) for name, value in wide.state_dict().items()}
    loaded(wide, trained)
    assert (wide.conv1.weight == 2).all()


def test_a_frozen_tower_is_refused_where_nothing_would_learn_the_channels(small_clip_spec):
    told = {"names": NAMES, "start": "zero"}
    with pytest.raises(CapabilityError, match="option frozen cannot use nir, swir"):
        CLIPVisionBackbone(small_clip_spec, frozen=True, channels=told)
    frozen = CLIPVisionBackbone(small_clip_spec, frozen=True, channels={**told, "start": "mean"})
    assert not any(parameter.requires_grad for parameter in frozen.tower.parameters())


@pytest.mark.parametrize(("name", "scope"), [("fpn", "mmseg"), ("faster-rcnn", "mmdet")])
def test_a_packaged_recipe_reads_bands(name, scope, small_clip_spec):
    plan = packaged(name, small_clip_spec)
    init_default_scope(scope)
    notes = on_channels(plan, InputChannels(NAMES), STATISTICS)
    assert "red, green, blue as red, green and blue; nir, swir started from zero" in notes[0]
    assert "nir 0.4 ± 0.35" in notes[1]
    given = plan["model"]["data_preprocessor"]
    made = MODELS.build(dict(given))
    pixels = torch.rand(5, 32, 32) * 255
    sample = SimpleNamespace(set_metainfo=lambda _: None)
    batch = {"inputs": [pixels], "data_samples": [sample] if scope == "mmseg" else None}
    seen = made(batch)["inputs"][0] if scope == "mmseg" else _of_detection(made, pixels)
    mean, std = (torch.tensor(side).view(-1, 1, 1) for side in STATISTICS)
    torch.testing.assert_close(seen, (pixels / 255 - mean) / std, atol=1e-4, rtol=1e-4)
    loaders = typed(plan["train_dataloader"], "LoadItemImage")
    assert [each["bands"] for each in loaders] == [list(NAMES)] and loaders[0]["to_float32"]
    assert loaders[0]["fill"] == pytest.approx([255 * mean for mean in STATISTICS[0]])
    assert not typed(plan["train_dataloader"], "PhotoMetricDistortion")
    assert len(typed(plan["train_dataloader"], "BandDistortion")) == (name == "fpn")


def _of_detection(made, pixels):
    from mmdet.structures import DetDataSample

    return made({"inputs": [pixels], "data_samples": [DetDataSample(metainfo={"img_shape": (32, 32)})]})["inputs"][0]


def test_the_layer_that_bands_enter_by_learns_at_the_whole_rate(small_clip_spec):
    plan = packaged("fpn", small_clip_spec)
    init_default_scope("mmseg")
    on_channels(plan, InputChannels(NAMES), STATISTICS)
    held = torch.nn.ModuleDict({"backbone": MODELS.build(dict(plan["model"]["backbone"]))})
    wrapper = build_optim_wrapper(held, dict(plan["optim_wrapper"]))
    rates = {id(group["params"][0]): group["lr"] for group in wrapper.optimizer.param_groups}
    taken = next(m for m in held.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels == 5)
    others = [rates[id(p)] for p in held.parameters() if id(p) in rates and p is not taken.weight]
    assert rates[id(taken.weight)] == pytest.approx(1e-3) and max(others) == pytest.approx(1e-4)


def test_a_backbone_of_mm_is_widened_and_what_takes_colours_is_left_out_and_told(small_clip_spec):
    plan = packaged("faster-rcnn", small_clip_spec)
    init_default_scope("vladapt")  # the plan names its own
    plan["model"]["backbone"] = dict(RESNET)
    pipeline = plan["train_dataloader"]["dataset"]["pipeline"]
    pipeline.insert(1, {"type": "YOLOXHSVRandomAug"})
    notes = on_channels(plan, InputChannels(NAMES), None)
    assert notes[-1] == "Left out, since it takes 8 bits of red, green and blue: YOLOXHSVRandomAug."
    assert not typed(plan["train_dataloader"], "YOLOXHSVRandomAug")
    assert plan["model"]["backbone"]["type"] == "vladapt.WidenedBackbone"
    assert MODELS.build(plan["model"]["backbone"]).conv1.in_channels == 5
    given = plan["model"]["data_preprocessor"]
    assert given["mean"][3] == pytest.approx(np.mean(given["mean"][:3])) and len(given["std"]) == 5


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"type": "vladapt.MaskCLIP", "backbone": "embedded"}, "MaskCLIP reads pictures of three channels"),
        ({"type": "vladapt.HFDetector", "config": {}}, "HFDetector reads pictures of three channels"),
        (
            {
                "type": "X",
                "backbone": {},
                "data_preprocessor": {"type": "DetDataPreprocessor"},
                "h": {"frozen_tower": {}},
            },
            "frozen_tower reads pictures of three channels",
        ),
    ],
)
def test_models_that_cannot_read_bands_are_refused_in_one_line(model, words):
    with pytest.raises(CapabilityError, match=words):
        check_channels(model, InputChannels(NAMES))


def test_a_backbone_without_one_first_convolution_is_refused():
    init_default_scope("mmdet")
    with pytest.raises(CapabilityError, match="backbone CSPDarknet has no convolution where 3 channels enter"):
        WidenedBackbone({"type": "CSPDarknet", "widen_factor": 0.125}, NAMES)


def test_rasters_of_more_than_8_bits_keep_them_where_transforms_can():
    load, light = {"type": "vladapt.LoadItemImage"}, {"type": "PhotoMetricDistortion", "brightness_delta": 9}
    plan = {"train_dataloader": {"dataset": {"pipeline": [load, light]}}, "vladapt": {"test_pipeline": [load]}}
    assert on_depth(plan) == []
    assert all(each["to_float32"] for each in typed(plan, "LoadItemImage")) and len(typed(plan, "LoadItemImage")) == 2
    assert typed(plan, "BandDistortion") == [{"type": "vladapt.BandDistortion", "brightness_delta": 9}]
    hub = {"vladapt": {"test_pipeline": [load, {"type": "vladapt.ProcessorResize"}]}}
    assert on_depth(hub) == ["Rasters of more than 8 bits were rounded to 8, as ProcessorResize takes them."]
    assert hub["vladapt"]["test_pipeline"][0] == load
