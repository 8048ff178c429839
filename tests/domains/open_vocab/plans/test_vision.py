"""A config on another backbone: the parts that name it, its pixels, and what is built on its maps."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine import Config
from mmengine.registry import init_default_scope

from vladapt.domains.open_vocab.domain import OpenVocab
from vladapt.domains.open_vocab.plans.kinds import DETECTION, SEGMENTATION
from vladapt.domains.open_vocab.plans.pipelines import nodes
from vladapt.domains.open_vocab.plans.plan import make_plan
from vladapt.domains.open_vocab.plans.schedule import first_backbone, put_on_backbone
from vladapt.registry import DATASETS, MODELS

TASKS = {"faster-rcnn": DETECTION, "fpn": SEGMENTATION}


def packaged(name):
    return Config.fromfile(str(OpenVocab().recipes[name])).to_dict()


@pytest.mark.parametrize("name", TASKS)
def test_every_part_that_names_a_backbone_names_the_other(name, small_clip_spec, small_clip):
    config = packaged(name)
    assert first_backbone(config["model"]) == "embedded"
    before = copy.deepcopy(config["model"])
    put_on_backbone(config, small_clip_spec)
    model = config["model"]
    named = [node["backbone"] for node in nodes(model) if isinstance(node.get("backbone"), str)]
    assert named == [small_clip_spec] * 2 and first_backbone(model) == small_clip_spec
    pixels = model["data_preprocessor"]
    assert pixels["mean"] == pytest.approx([255 * m for m in small_clip.image_mean])
    assert pixels["std"] == pytest.approx([255 * s for s in small_clip.image_std])
    assert pixels["bgr_to_rgb"] is True
    others = {key: value for key, value in pixels.items() if key not in ("mean", "std")}
    assert others == {key: value for key, value in before["data_preprocessor"].items() if key not in ("mean", "std")}
    vision = MODELS.build(dict(model["backbone"]))
    assert model["neck"]["in_channels"] == list(vision.out_channels) != before["neck"]["in_channels"]


def test_the_first_of_several_necks_is_matched(small_clip_spec):
    config = packaged("faster-rcnn")
    config["model"]["neck"] = [config["model"]["neck"], {"type": "DyHead", "in_channels": 128}]
    one = packaged("faster-rcnn")
    for each in (config, one):
        put_on_backbone(each, small_clip_spec)
    assert config["model"]["neck"][0] == one["model"]["neck"]


def test_a_model_without_towers_names_no_backbone():
    assert first_backbone({"backbone": {"type": "ResNet"}, "head": [{"num_classes": 3}]}) is None


@pytest.mark.parametrize("name", TASKS)
def test_a_config_on_another_backbone_builds_and_trains_a_step(name, small_clip_spec, boxes, masks, options):
    kind = TASKS[name]
    config = packaged(name)
    if kind is DETECTION:
        config["model"]["roi_head"]["bbox_head"]["fc_out_channels"] = 16
        config["model"]["test_cfg"]["rpn"]["nms_pre"] = 20
    data = {DETECTION: boxes, SEGMENTATION: masks}[kind]
    plan = make_plan(config, kind, options(kind.task, backbone=small_clip_spec), data)
    init_default_scope(plan.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(plan.model)
    dataset = DATASETS.build(plan.train_dataloader.dataset)
    samples = [dataset[0], dataset[1]]
    batch = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    found = model.data_preprocessor(batch, training=True)
    total, _ = model.parse_losses(model(**found, mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.neck.parameters())


def test_a_training_counted_in_steps_runs_with_its_samplers(small_clip_spec, masks, options, tmp_path):
    from vladapt.core.runtime.progress import Reporter
    from vladapt.core.tasks.config_training.runner import train_plan

    config = packaged("fpn")
    config["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 3}
    config["train_dataloader"] |= {"batch_size": 2, "sampler": {"type": "InfiniteSampler", "shuffle": True}}
    config["param_scheduler"] = []
    made = options("segmentation", backbone=small_clip_spec, workers=0, amp="bf16")
    plan = make_plan(config, SEGMENTATION, made, masks)
    assert plan.train_dataloader.sampler.type == "vladapt.PassSampler"
    _, history = train_plan(plan, tmp_path, 1, torch.device("cpu"), Reporter(quiet=True))
    assert [row["step"] for row in history] == [1, 2, 3]
