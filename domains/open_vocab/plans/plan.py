"""The plan of a training: a config with its data, its classes and what the command line says put in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.dist import get_world_size

from ....core.contracts import Backbone, DomainData, InputChannels
from ....core.errors import ConfigError, DataError
from ....core.features import FeatureStore
from ..data.boxes import annotated_boxes
from ..data.classes import choose_classes
from ..data.items_file import write_items
from ..data.masks import MaskReader
from ..data.novel import split_novel
from .channels import is_deep, on_bands, on_channels, on_depth
from .classes import takes_names, with_classes
from .kinds import KINDS, ConfigKind
from .pipelines import as_plain_config, mapped_values, nodes, ours, testing_pipeline, training_pipeline
from .schedule import Schedule, apply_schedule, first_backbone, put_on_backbone

PASSES = "vladapt.PassSampler"
ENGINE = ("model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "default_hooks", "custom_hooks")
ENGINE += ("custom_imports", "default_scope", "env_cfg", "load_from", "randomness", "find_unused_parameters")
"""Keys of a config that mmengine's Runner reads in a training; its variables are left behind."""
SYNCED_NORMS = ("SyncBN", "naiveSyncBN", "MMSyncBN")


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of a config.

    Args:
        schedule: how it trains.
        seed: of the augmentation.
        device: on which it trains.
        backbone: spec of the one that it is put on; None for its own.
        novel: names that are not learned, comma-separated, or "coco" or "lvis"; empty for none.
        templates: prompts with {} for the class name; None for the usual ones.
        of_task: options of the task, which the plan keeps.
        channels: of images that have more than three.
        by_band: the backbone, where it takes bands by what they are, with those of the images.
        statistics: mean and standard deviation of each channel of the training images, where there are more than three.
    """

    schedule: Schedule = Schedule()
    seed: int = 1
    device: str = "auto"
    backbone: str | None = None
    novel: str = ""
    templates: Any = None
    of_task: Mapping[str, Any] = field(default_factory=dict)
    channels: InputChannels | None = None
    by_band: Backbone | None = None
    statistics: tuple[Sequence[float], Sequence[float]] | None = None


def make_plan(
    config: Mapping[str, Any],
    kind: ConfigKind,
    options: PlanOptions,
    data: DomainData,
    described: Mapping[str, Any] | None = None,
) -> Config:
    """The plan of a training, or, of a config without `train_cfg`, of a model that is used as it is.

    Args:
        config: packaged, or the user's own; it is not changed.
        kind: of config, and so the task.
        data: with splits, its classes and shots chosen; the train split is what is learned from.
        described: class name -> synonyms and descriptions, for models with texts.

    Raises:
        ConfigError: the config lacks a part, or what the options ask for does not apply to it.
        DataError: no training image shows a class.
    """
    plan = as_plain_config(dict(config))
    _check_task(plan, kind)
    model = plan["model"]
    if options.backbone is not None:
        if first_backbone(model) is None:
            raise ConfigError(f"--backbone {options.backbone}: no part of the config's model takes one; omit it")
        put_on_backbone(plan, options.backbone, options.by_band and options.by_band.channels)
    novel = split_novel(data.class_names, options.novel, data.frequency).novel if options.novel else ()
    learned = [name for name in data.class_names if name not in novel]
    if novel and not takes_names(model):
        raise ConfigError("--novel: the config's model has no texts as classes; give it a text classifier first")
    notes = with_classes(model, learned, described, options.templates)
    test_pipeline = testing_pipeline(plan, kind)
    trains = bool(plan.get("train_cfg"))
    if trains:
        _give_data(plan, kind, data, learned, options.seed)
        notes += apply_schedule(plan, options.schedule, len(data.split("train")))
    kept = {key: plan[key] for key in ENGINE if key in plan and (trains or key in ("model", "default_scope"))}
    kept.setdefault("default_scope", kind.scope)
    kept["vladapt"] = {
        "task": kind.task,
        "classes": learned,
        "novel": list(novel),
        "described": dict(described or {}),
        "test_pipeline": test_pipeline,
        **({"source": dict(source)} if (source := (plan.get("vladapt") or {}).get("source")) else {}),
        **options.of_task,
    }
    if options.by_band is not None:
        notes += on_bands(kept, options.by_band)
    elif options.channels is not None:
        notes += on_channels(kept, options.channels, options.statistics)
    elif is_deep(data.split("train"), data):
        notes += on_depth(kept)
    kept["vladapt"]["notes"] = notes
    return Config(_with_batch_norms(kept, options.device))


def check_outlines(config: Mapping[str, Any], kind: ConfigKind, data: DomainData) -> None:
    """Refuse data without outlines where the config's training reads them.

    Raises:
        DataError: no object of a training image has one.
    """
    if not config.get("train_cfg"):
        return
    pipeline = training_pipeline(as_plain_config(dict(config)), kind)
    outlined = (outline for item in data.split("train") for outline in annotated_boxes(item).segments or ())
    if any(node.get("with_mask") for node in nodes(pipeline)) and not any(outlined):
        of_start = (config.get("vladapt") or {}).get("source")
        boxes = "start from a model of boxes" if of_start else "a recipe for boxes, --recipe open-vocab/faster-rcnn"
        raise DataError(
            f"{data.name}: no training image has outlines, from which the config learns (with_mask=True); give "
            f"polygons or encoded masks ('segmentation' in COCO JSON), or {boxes}"
        )


def _check_task(plan: dict[str, Any], kind: ConfigKind) -> None:
    """mmdet's configs are of detection, mmseg's of segmentation."""
    scope = plan.get("default_scope")
    of = next((other.task for other in KINDS if other.scope == scope), kind.task)
    if of != kind.task:
        raise ConfigError(f"--task {kind.task}: the config is one of {scope} (its default_scope); give --task {of}")


def _give_data(plan: dict[str, Any], kind: ConfigKind, data: DomainData, learned: list[str], seed: int) -> None:
    """Put the train split into the plan's loader, in place of whatever data the config had."""
    train = choose_classes(data.with_items(data.split("train")), learned)
    if not any(kind.teaches(item) for item in train.items):
        raise DataError(f"{data.name}: no training image shows a class ({', '.join(learned[:10])}); annotate some")
    our_dataset = {"type": kind.dataset, "items_json": str(_items_file(train)), "split": "train"}
    given = plan["train_dataloader"].get("dataset") or {}
    dataset = _in_wrappers(given, our_dataset, training_pipeline(plan, kind), kind)
    # Hooks that change the transforms in the course of a training (RTMDet's) read images our way, too.
    for hook in plan.get("custom_hooks") or ():
        if isinstance(hook, dict) and hook.get("switch_pipeline"):
            hook["switch_pipeline"] = [ours(transform, kind) for transform in hook["switch_pipeline"]]
    if plan["train_cfg"].get("max_iters") and plan["train_dataloader"].get("sampler"):
        plan["train_dataloader"]["sampler"] = {"type": PASSES, "sampler": plan["train_dataloader"]["sampler"]}
    plan["train_dataloader"]["dataset"] = {"type": "vladapt.SeededDataset", "dataset": dataset, "seed": seed}


def _in_wrappers(
    given: dict[str, Any], our_dataset: dict[str, Any], pipeline: list, kind: ConfigKind
) -> dict[str, Any]:
    """Our data set where a config's own stands, inside what repeats, balances or mixes it."""
    if isinstance(given.get("dataset"), dict):
        mixed = {"pipeline": [ours(t, kind) for t in given["pipeline"]]} if given.get("pipeline") else {}
        return {**given, **mixed, "dataset": _in_wrappers(given["dataset"], our_dataset, pipeline, kind)}
    if given.get("datasets"):
        return _in_wrappers(given["datasets"][0], our_dataset, pipeline, kind)
    return {**our_dataset, **{name: given[name] for name in kind.kept if given.get(name)}, "pipeline": pipeline}


def _items_file(data: DomainData) -> Path:
    """The items as a file in the cache, named by their content: the same plan has the same name again."""
    reader = data.load_mask
    table = reader.as_data() if isinstance(reader, MaskReader) else None
    listed = json.dumps([data.kind, [str(item) for item in data.items], list(data.class_names), table])
    path = FeatureStore.default_root().parent / "plans" / f"{hashlib.sha256(listed.encode()).hexdigest()[:24]}.json"
    if not path.is_file():
        write_items(path, data)  # whole at once, so that processes that write the same file leave one
    return path


def _with_batch_norms(plan: dict[str, Any], device: str) -> dict[str, Any]:
    """Batch norms that are shared over processes need some, and a GPU for each; else they are plain ones."""
    on_gpus = torch.cuda.is_available() and not str(device).startswith("cpu")
    if (get_world_size() > 1 and on_gpus) or not any(node.get("type") in SYNCED_NORMS for node in nodes(plan["model"])):
        return plan
    return {**plan, "model": mapped_values(plan["model"], lambda value: "BN" if value in SYNCED_NORMS else value)}
