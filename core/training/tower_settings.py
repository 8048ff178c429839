"""From a method's options to one training: its settings, its view of an image, its losses, its score on val."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from ..contracts.adapter import FitReport
from ..contracts.backbone import Backbone
from ..contracts.images import TrainingImages
from ..contracts.options import chosen
from ..errors import ConfigError, DataError, UnknownNameError, did_you_mean
from ..features.extract import AMP, cores
from ..metrics.classification import val_score
from ..registry.build import loss_class
from ..runtime.distributed import all_gather_rows, rank, world_size
from .class_scores import PixelScores
from .objective import parse_losses
from .parts import TrainingResult
from .settings import TrainingSettings
from .tower_passes import image_features

SETTINGS = (
    "batch_size",
    "micro_batch_size",
    "lr",
    "weight_decay",
    "warmup",
    "layer_decay",
    "clip_grad",
    "amp",
    "ema",
    "checkpointing",
    "patience",
    "log_every",
    "log_to",
    "deterministic",
)
"""Options that are settings of the training under the same name."""
FURTHER = (
    *("optimizer", "betas", "eps", "decayed", "schedule", "warmup_lr", "end_lr"),
    *("milestones", "step_factor", "head_rate", "bias_rate", "drop_last", "steps"),
)
"""Settings that the option `training` takes."""
DASSL = {"optimizer": "sgd", "decayed": "all", "schedule": "epochs"}
"""How prompt learners train: SGD with momentum 0.9 on all that trains, one rate per epoch. `warmup` counts epochs."""
COST_OPTIONS = ("micro_batch_size", "checkpointing", "save_every", "workers", "log_every", "log_to", "deterministic")
"""Options that change speed, memory, what is told and, on a GPU, last digits."""
SAVE_AT_LEAST = 100
"""Steps between checkpoints at least, where `save_every` does not say: an epoch of a few shots has a step or two."""
MOST_WORKERS = 8
STEPS_WORTH_WORKERS = 10
"""Steps of an epoch above which processes that decode are worth their start, which comes with each epoch."""


def settings_of(method, *, epochs: int, steps: int, seed: int, device: torch.device) -> TrainingSettings:
    """The settings of a training with so many steps per epoch.

    Raises:
        ConfigError: an option is out of range.
    """
    return TrainingSettings(
        epochs=epochs,
        seed=seed,
        save_every=max(steps, SAVE_AT_LEAST) if method.save_every is None else method.save_every,
        workers=_workers(device, steps) if method.workers is None else method.workers,
        flip=True,  # images are augmented by the domain's transform, and only where there is none by the backbone's
        **({} if method.crops.crop_scale is None else {"crop_scale": method.crops.crop_scale}),
        **{
            **{name: getattr(method, name) for name in SETTINGS},
            **method._settings_of_method(epochs),
            **(method.training or {}),
        },
    )


def check_further(training: Mapping[str, Any], warmup: float) -> None:
    """What the option `training` holds.

    Raises:
        UnknownNameError: a setting that it does not take. ConfigError: a value that is not usable.
    """
    for name in training:
        if name not in FURTHER:
            raise UnknownNameError(f"option training: no setting '{name}'; {did_you_mean(name, FURTHER)}")
    TrainingSettings(**{"warmup": warmup, **training})


def losses_of(loss: str | None, default: str) -> dict[str, float]:
    """ "clip=1,distill=0.5" -> {"clip": 1.0, "distill": 0.5}.

    Raises:
        ConfigError: a weight that is not a number, or a name given twice.
    """
    return parse_losses((loss or default).split(","))


def check_losses(loss: str | None, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Names of losses, and their options one by one, before there is a model to build them for.

    Raises:
        UnknownNameError: no loss, or no option of it, has that name.
        ConfigError: a weight or an option is not usable, or options are of a loss that is not among the losses.
    """
    named = parse_losses(loss.split(",")) if loss else {}
    for name in named:
        loss_class(name)
    for name, values in options.items():
        if loss and name not in named:
            raise ConfigError(f"option loss_options: '{name}' is not one of the losses ({', '.join(named)})")
        chosen(loss_class(name), values, f"loss '{name}'")


def identity_of(method) -> dict[str, Any]:
    """Options that a checkpoint must share, and that are not settings of the training; as JSON gives them back."""
    identity = {name: value for name, value in method.options.items() if name not in (*COST_OPTIONS, *SETTINGS)}
    return json.loads(json.dumps(identity))


def report_of(name: str, done: TrainingResult, settings: TrainingSettings, notes: list[str]) -> FitReport:
    """What an adapter of this name says of its training."""
    notes = [*notes, *done.notes]
    notes += [f"Not read while training: {sample} ({reason})" for sample, reason in done.broken]
    chosen = {"epochs": settings.epochs, "steps": done.steps, "lr": settings.lr}
    chosen["trained parameters"] = done.trained_parameters
    best = None
    if done.best_epoch is not None:
        best = max(row["val"] for row in done.history if "val" in row)
        chosen["epoch"] = done.best_epoch
    return FitReport(
        adapter=name,
        chosen=chosen,
        chosen_on="options and published settings" if best is None else "val",
        val_score=best,
        history=done.history,
        notes=notes,
        trained_parameters=done.trained_parameters,
    )


@torch.no_grad()
def score_by(
    scores: nn.Module,
    backbone: Backbone,
    images: TrainingImages,
    size: int,
    amp: str | None,
    balanced: bool = False,
) -> float:
    """Accuracy on the val images, or macro AUROC where they have several labels; the same on all ranks.

    Args:
        scores: (B, D) unit image features -> (B, C), or `PixelScores`.
        backbone: in eval mode.
        size: images at once.
        balanced: take the balanced accuracy.

    Raises:
        DataError: an image cannot be read, or no label has images with and without it.
    """
    items = list(images.val)[rank() :: world_size()]
    parts, of_pixels = [torch.zeros(0, len(images.prompts))], isinstance(scores, PixelScores)
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(items), size):
            some = items[start : start + size]
            pixels = torch.stack(list(threads.map(lambda item: images.eval_transform(images.load(item)), some)))
            with torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None):
                pixels = pixels.to(backbone.device)
                seen = scores(backbone, pixels) if of_pixels else image_features(backbone, pixels)
            parts.append((seen if of_pixels else scores(seen)).float().cpu())
    logits = all_gather_rows(torch.cat(parts))
    in_order = [item for start in range(world_size()) for item in list(images.val)[start :: world_size()]]
    score = val_score(logits, torch.tensor([item.class_label() for item in in_order]), balanced)
    if math.isnan(score):
        raise DataError("no label is both present and absent among the val images; use select='last'")
    return score


def _workers(device: torch.device, steps: int) -> int:
    """A CPU is busy with the towers; a GPU waits for images, but not where an epoch is over before workers run."""
    return 0 if device.type == "cpu" or steps < STEPS_WORTH_WORKERS else min(MOST_WORKERS, cores())
