"""A config with the data put in: inside its wrappers, by our readers, and nothing else of it changed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from mmengine import Config
from mmengine.registry import init_default_scope

from vladapt.core.contracts.items import Boxes
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.open_vocab.data.items_file import read_items
from vladapt.domains.open_vocab.data.masks import MaskReader
from vladapt.domains.open_vocab.plans import pipelines
from vladapt.domains.open_vocab.plans import plan as plans
from vladapt.domains.open_vocab.plans.kinds import DETECTION, SEGMENTATION
from vladapt.domains.open_vocab.plans.plan import check_outlines, make_plan
from vladapt.domains.open_vocab.stack.packaged_configs import packaged_config
from vladapt.domains.open_vocab.tasks._by_names import RECIPES
from vladapt.registry import DATASETS

TRAIN = [
    {"type": "LoadImageFromFile", "backend_args": None},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "scale": (32, 32), "keep_ratio": True},
    {"type": "PackDetInputs"},
]
TEST = [TRAIN[0], TRAIN[2], TRAIN[1], {"type": "PackDetInputs", "meta_keys": ("img_id", "scale_factor")}]
THEIRS = {"type": "CocoDataset", "data_root": "nowhere/", "ann_file": "a.json", "pipeline": TRAIN}
LOADER = {"batch_size": 2, "num_workers": 0, "sampler": {"type": "DefaultSampler", "shuffle": True}}


def config(dataset=None, **changes):
    dataset = THEIRS if dataset is None else dataset
    whole = {
        "default_scope": "mmdet",
        "model": {"type": "FasterRCNN", "roi_head": {"bbox_head": {"num_classes": 80}}},
        "train_dataloader": {**LOADER, "dataset": dataset},
        "test_dataloader": {"dataset": {"type": "CocoDataset", "pipeline": TEST}},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
        "a_variable": 3,
        "work_dir": "elsewhere",
    }
    return copy.deepcopy({**whole, **changes})


def built(plan):
    """The data set of a plan's training."""
    init_default_scope(plan.default_scope)
    return DATASETS.build(plan.train_dataloader.dataset)


def inner_of(plan):
    seeded = plan.train_dataloader.dataset
    assert seeded.type == "vladapt.SeededDataset"
    return seeded.dataset


def test_our_data_takes_the_place_of_the_configs_and_the_config_stays(boxes, options):
    given = config()
    plan = make_plan(given, DETECTION, options(seed=5), boxes)
    assert given == config()
    ours = inner_of(plan)
    assert ours.type == "vladapt.DetectionDataset" and "data_root" not in ours
    assert [transform.type for transform in ours.pipeline] == [
        "vladapt.LoadItemImage",
        "LoadAnnotations",
        "Resize",
        "PackDetInputs",
    ]
    assert plan.train_dataloader.dataset.seed == 5
    items = read_items(ours.items_json)
    assert [item.id for item in items.items] == [str(i) for i in range(7)]
    assert "a_variable" not in plan and "work_dir" not in plan and "test_dataloader" not in plan
    assert plan.vladapt.task == "detection" and plan.vladapt.classes == ["cat", "dog", "hen"]
    assert [t.type for t in plan.vladapt.test_pipeline] == ["vladapt.LoadItemImage", "Resize", "PackDetInputs"]
    assert plan.vladapt.test_pipeline[1].scale == (32, 32)


REPEAT = {"type": "RepeatDataset", "times": 3, "dataset": THEIRS}
BALANCED = {"type": "ClassBalancedDataset", "oversample_thr": 0.5, "dataset": THEIRS}
CONCAT = {"type": "ConcatDataset", "datasets": [THEIRS, {**THEIRS, "ann_file": "b.json"}]}
MIXED = {
    "type": "MultiImageMixDataset",
    "dataset": {**THEIRS, "pipeline": TRAIN[:2]},
    "pipeline": [{"type": "Mosaic", "img_scale": (32, 32), "pad_val": 114.0}, TRAIN[3]],
}


@pytest.mark.parametrize(
    ("wrapped", "length"),
    [(THEIRS, 7), (REPEAT, 21), (BALANCED, 14), (CONCAT, 7), (MIXED, 7)],
    ids=lambda value: str(value)[:20],
)
def test_wrappers_keep_their_meaning(boxes, options, wrapped, length):
    plan = make_plan(config(wrapped), DETECTION, options(), boxes)
    outer = inner_of(plan)
    kept = [key for key in ("times", "oversample_thr") if key in wrapped]
    assert all(outer[key] == wrapped[key] for key in kept)
    whole = built(plan)
    assert len(whole) == length
    sample = whole[0]
    assert sample["inputs"].shape[0] == 3 and sample["data_samples"].gt_instances.labels.numel() >= 1


def test_wrappers_in_wrappers(boxes, options):
    """As mmdet's VOC configs have them."""
    nested = {"type": "RepeatDataset", "times": 3, "dataset": CONCAT}
    ours = inner_of(make_plan(config(nested), DETECTION, options(), boxes))
    assert (ours.type, ours.times, ours.dataset.type) == ("RepeatDataset", 3, "vladapt.DetectionDataset")
    assert ours.dataset.pipeline[0].type == "vladapt.LoadItemImage"


def test_what_a_config_filters_is_filtered(boxes, options):
    items = [item if i else item.with_(target=Boxes()) for i, item in enumerate(boxes.items)]
    empty = boxes.with_items(items)
    filtered = {**THEIRS, "filter_cfg": {"filter_empty_gt": True, "min_size": 8}}
    lengths = [len(built(make_plan(config(given), DETECTION, options(), empty))) for given in (THEIRS, filtered)]
    assert lengths == [7, 6]


def test_transforms_that_a_hook_switches_to_read_our_way(boxes, options):
    hook = {"type": "PipelineSwitchHook", "switch_epoch": 1, "switch_pipeline": TRAIN}
    plan = make_plan(config(custom_hooks=[hook]), DETECTION, options(), boxes)
    assert plan.custom_hooks[0].switch_pipeline[0].type == "vladapt.LoadItemImage"
    dataset = built(plan)
    dataset.pipeline = lambda sample: "switched"
    assert dataset[0] == "switched" and dataset.inner.pipeline(None) == "switched"


def test_a_training_counted_in_steps_draws_anew_in_each_pass(boxes, options):
    loop = {"type": "IterBasedTrainLoop", "max_iters": 8}
    loader = {**LOADER, "sampler": {"type": "InfiniteSampler", "shuffle": True}, "dataset": THEIRS}
    plan = make_plan(config(train_cfg=loop, train_dataloader=loader), DETECTION, options(), boxes)
    assert plan.train_dataloader.sampler == {"type": "vladapt.PassSampler", "sampler": loader["sampler"]}
    by_epochs = make_plan(config(), DETECTION, options(), boxes)
    assert by_epochs.train_dataloader.sampler == LOADER["sampler"]


@pytest.mark.parametrize(("processes", "gpu", "device", "kind"), [
    (1, True, "auto", "BN"), (2, True, "auto", "SyncBN"), (2, False, "auto", "BN"), (2, True, "cpu", "BN"),
])  # fmt: skip
def test_batch_norms_are_shared_only_by_processes_with_gpus(boxes, options, monkeypatch, processes, gpu, device, kind):
    monkeypatch.setattr(plans, "get_world_size", lambda: processes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    model = {"type": "FasterRCNN", "neck": {"norm_cfg": {"type": "SyncBN", "requires_grad": True}}}
    plan = make_plan(config(model=model), DETECTION, options(device=device), boxes)
    assert plan.model.neck.norm_cfg == {"type": kind, "requires_grad": True}


def test_a_packaged_segmentor_is_given_masks(masks, options):
    given = Config.fromfile(str(packaged_config("mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py"))).to_dict()
    plan = make_plan(given, SEGMENTATION, options("segmentation"), masks)
    kinds = [transform.type for transform in inner_of(plan).pipeline]
    assert kinds[:2] == ["vladapt.LoadItemImage", "vladapt.LoadSegmentation"] and kinds[-1] == "PackSegInputs"
    assert plan.model.backbone.norm_cfg.type == "BN" and plan.model.decode_head.num_classes == 3
    assert "LoadAnnotations" not in json.dumps(plan.vladapt.test_pipeline)
    sample = built(plan)[0]["data_samples"]
    assert set(sample.gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 255}


def test_items_are_told_apart_by_what_their_masks_mean(masks, options):
    other = copy.copy(masks)
    other.load_mask = MaskReader(values={place: 2 - place for place in range(3)})
    given = {**config(), "default_scope": "mmseg"}
    files = {
        inner_of(make_plan(given, SEGMENTATION, options("segmentation"), data)).items_json for data in (masks, other)
    }
    again = inner_of(make_plan(given, SEGMENTATION, options("segmentation"), masks)).items_json
    assert len(files) == 2 and again in files


def test_a_config_without_training_is_a_model_alone(boxes, options):
    plan = make_plan(config(train_cfg=None), DETECTION, options(), boxes)
    assert set(plan.keys()) == {"model", "default_scope", "vladapt"}


def test_images_are_read_as_finely_as_the_config_wants():
    plan = {"train_pipeline": [{"type": "mmdet.LoadImageFromFile", "to_float32": True}], "test_pipeline": TEST}
    assert pipelines.training_pipeline(plan, DETECTION) == [{"type": "vladapt.LoadItemImage", "to_float32": True}]
    assert pipelines.testing_pipeline(plan, DETECTION)[0] == {"type": "vladapt.LoadItemImage"}


def test_a_config_without_transforms_is_told():
    with pytest.raises(ConfigError, match=r"no train_dataloader\.dataset\.pipeline; add one, or train_pipeline"):
        pipelines.training_pipeline({}, DETECTION)
    with pytest.raises(ConfigError, match=r"no test_dataloader\.dataset\.pipeline"):
        pipelines.testing_pipeline({}, DETECTION)


def test_a_config_of_the_other_task_is_told(boxes, options):
    with pytest.raises(ConfigError, match="--task segmentation: the config is one of mmdet"):
        make_plan(config(), SEGMENTATION, options("segmentation"), boxes)


def packaged(name):
    file = packaged_config(name) if "::" in name else RECIPES / f"{name}.py"
    return Config.fromfile(str(file)).to_dict()


def outlined(data, splits):
    """The set with an outline of each box in some splits."""
    squares = [
        replace(item.target, segments=([[2.0, 3.0, 20.0, 3.0, 20.0, 18.0]],)) if item.split in splits else item.target
        for item in data.items
    ]
    return data.with_items([item.with_(target=target) for item, target in zip(data.items, squares)])


INSTANCES = "mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py"


@pytest.mark.parametrize("name", ["mask_rcnn", "mask2former_panoptic", INSTANCES])
def test_a_config_that_learns_outlines_refuses_data_without_any_for_training(name, boxes):
    config = packaged(name)
    for splits in ((), ("test",)):
        with pytest.raises(DataError, match=r"animals: no training image has outlines.*give polygons"):
            check_outlines(config, DETECTION, outlined(boxes, splits))
    check_outlines(config, DETECTION, outlined(boxes, ("train",)))


def test_a_start_that_learns_outlines_is_told_of_no_recipe_which_it_would_refuse(boxes):
    config = {**packaged("mask_rcnn"), "vladapt": {"source": {"id": "owner/mask2former"}}}
    with pytest.raises(DataError, match=r"or start from a model of boxes$"):
        check_outlines(config, DETECTION, boxes)


def test_a_config_of_boxes_takes_data_without_outlines(boxes):
    check_outlines(packaged("retinanet"), DETECTION, boxes)
