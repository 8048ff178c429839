"""How long, how fast and in what precision a plan trains: what the command line says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mmengine.dist import get_world_size

from ....core.contracts import InputChannels
from ....core.errors import ConfigError
from ....core.tasks import ConfigTask
from .pipelines import Node, nodes

DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
TESTING_KEYS = ("val_dataloader", "val_cfg", "val_evaluator", "test_dataloader", "test_cfg", "test_evaluator")
"""Parts of a config that test it: that is done afterwards, on the test split."""
PICTURES = "visualization"
VISION = "CLIPVisionBackbone"


@dataclass(frozen=True)
class Schedule:
    """What is asked of a training; None leaves it to the config.

    Args:
        epochs: passes over the training images, also of a config that counts steps.
        lr: learning rate.
        batch_size: images per step, over all processes.
        workers: processes that make samples.
        amp: "bf16" or "fp16".
    """

    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    workers: int | None = None
    amp: str | None = None


def apply_schedule(plan: Node, schedule: Schedule, images: int) -> list[str]:
    """Put epochs, learning rate, batch size, workers and precision into a plan, in place.

    Schedules are stretched with the length of the training; a warm-up counted in steps keeps its steps. Where nothing
    is said of epochs, a config may ask for some steps at least, for few images: `vladapt=dict(least_steps=240)`.

    Args:
        images: in training, for configs whose length is counted in steps.

    Returns:
        Notes on what was changed and not asked for.

    Raises:
        ConfigError: an option out of range, or a plan without what it changes.
    """
    loader = plan["train_dataloader"]
    if schedule.batch_size is not None:
        loader["batch_size"] = ConfigTask.per_process(schedule.batch_size)
    if schedule.workers is not None:
        loader["num_workers"] = schedule.workers
    loader["persistent_workers"] = False  # the data set of each epoch draws its own augmentation
    steps = math.ceil(images / (loader.get("batch_size", 1) * get_world_size()))
    notes = []
    if schedule.epochs is not None:
        _set_epochs(plan, schedule.epochs, steps)
    else:
        notes = _train_long_enough(plan, steps)
    # A warm-up over epochs of one step in all never leaves its first rate in mmengine.
    if isinstance(plan.get("param_scheduler"), list):
        plan["param_scheduler"] = [
            each for each in plan["param_scheduler"] if not (_is_warmup(each) and _steps_of(each, steps) < 2)
        ]
    if schedule.lr is not None:
        _optimizer(plan)["lr"] = _positive("--lr", schedule.lr)
    if schedule.amp is not None:
        plan["optim_wrapper"].update(type="vladapt.AutocastOptimWrapper", dtype=DTYPES[schedule.amp])
    for key in TESTING_KEYS:
        plan.pop(key, None)
    hooks = plan.setdefault("default_hooks", {})
    hooks.pop(PICTURES, None)
    return notes


def _train_long_enough(plan: Node, steps_an_epoch: int) -> list[str]:
    """More epochs where few images would give less than `vladapt.least_steps` of the config, no more checkpoints."""
    least = (plan.get("vladapt") or {}).get("least_steps") or 0
    epochs = plan["train_cfg"].get("max_epochs")
    if not epochs or not steps_an_epoch or epochs * steps_an_epoch >= least:
        return []
    longer = math.ceil(least / steps_an_epoch)
    hooks = plan.setdefault("default_hooks", {})
    hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": max(1, longer // epochs)})
    _set_epochs(plan, longer, steps_an_epoch)
    return [f"Few images: {longer} epochs in place of {epochs}, to make at least {least} steps (--epochs N decides)."]


def _set_epochs(plan: Node, epochs: Any, steps_an_epoch: int) -> None:
    epochs = _whole("--epochs", epochs)
    loop = plan["train_cfg"]
    by_epoch = loop.get("by_epoch", "max_epochs" in loop)
    key, length = ("max_epochs", epochs) if by_epoch else ("max_iters", epochs * steps_an_epoch)
    factor = length / loop[key] if loop.get(key) else 1.0
    loop[key] = length
    for scheduler in _schedulers(plan):
        if scheduler.get("by_epoch", True) == by_epoch and not _is_warmup(scheduler):
            _stretch(scheduler, factor)


def _schedulers(plan: Node) -> list[Node]:
    schedulers = plan.get("param_scheduler") or []
    return [schedulers] if isinstance(schedulers, dict) else [each for each in schedulers if isinstance(each, dict)]


def _steps_of(scheduler: Node, steps_an_epoch: int) -> float:
    """Of a scheduler that counts epochs and is applied in each step; infinitely many of any other."""
    epochs = scheduler.get("end", math.inf) - scheduler.get("begin", 0)
    return epochs * steps_an_epoch if scheduler.get("convert_to_iter_based") else math.inf


def _is_warmup(scheduler: Node) -> bool:
    return str(scheduler.get("type", "")).rsplit(".", 1)[-1] in ("LinearLR", "ConstantLR")


def _stretch(scheduler: Node, factor: float) -> None:
    for key in ("begin", "end", "T_max"):
        if isinstance(scheduler.get(key), (int, float)):
            scheduler[key] = max(round(scheduler[key] * factor), 0 if key == "begin" else 1)
    if isinstance(scheduler.get("milestones"), (list, tuple)):
        scheduler["milestones"] = sorted({max(1, round(stone * factor)) for stone in scheduler["milestones"]})


def _optimizer(plan: Node) -> Node:
    try:
        return plan["optim_wrapper"]["optimizer"]
    except (KeyError, TypeError):
        raise ConfigError("--lr: the config has no optim_wrapper.optimizer to set it in; add one") from None


def _positive(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{option} {value}: give a number above 0")
    return float(value)


def _whole(option: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{option} {value}: give a whole number, 1 or more")
    return value


def first_backbone(model: Node) -> str | None:
    """The spec of the first part of a model that names one; None where no part does."""
    return next((node["backbone"] for node in _on_backbones(model)), None)


def _on_backbones(model: Node) -> list[Node]:
    """The parts of a model that name a backbone; what configurations of transformers name is built by transformers."""
    from ..hub_models.source import is_hub_node

    return [] if is_hub_node(model) else [node for node in nodes(model) if isinstance(node.get("backbone"), str)]


def put_on_backbone(plan: Node, spec: str, bands: InputChannels | None = None) -> None:
    """Put a plan on another backbone, in place: every part that names one, the pixels it takes, the neck's channels.

    Args:
        bands: of the images, for a backbone that takes bands by what they are.
    """
    from ..modules.backbones.image_part import pixel_cfg

    model = plan["model"]
    for node in _on_backbones(model):
        node["backbone"] = spec
    given = model.get("data_preprocessor")
    if isinstance(given, dict):
        given.update(pixel_cfg(spec, bands))
    if bands is not None and isinstance(vision := model.get("backbone"), dict):
        vision["channels"] = bands.facts
    _match_neck(model)


def _match_neck(model: Node) -> None:
    vision, neck = model.get("backbone"), model.get("neck")
    neck = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    if not (isinstance(vision, dict) and str(vision.get("type", "")).endswith(VISION) and isinstance(neck, dict)):
        return
    if isinstance(neck.get("in_channels"), (list, tuple)):
        neck["in_channels"] = list(_built(vision).out_channels)


def _built(vision: Node) -> Any:
    from ....registry import MODELS

    return MODELS.build({**vision, "type": f"vladapt.{VISION}"})
