"""The training of a model of change as an mmengine config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import Config

from ....core.contracts import Backbone, DomainData, InputChannels, Item
from ....core.errors import ConfigError, DataError
from ....registry import MODELS
from ..pixel_options import PixelSchedule
from ..pixel_training import BATCH, batch_loader, optim_wrapper
from ..tower_bands import band_options
from .masks import load_change
from .options import FPN, FROZEN, FULL, LIGHT, LORA, RESNETS, TOWER, ChangeOptions
from .target import CHANGED, CLASS_NAMES, UNCHANGED

EPOCHS, LEAST_STEPS, WARM = 20, 240, 20
"""Where a user says nothing; fewer steps do not train a new head. And steps of warm-up."""
MOST_WEIGHT = 20.0
"""Of changed pixels, where their share says."""
DIVISOR = 32
"""Of a tile's side: coarsest maps have a stride of 32."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by which ResNets are fed."""
GROUPS = 4
"""Of group norms in heads; one channel alone has no deviation on a map of one cell."""
RESNET_WIDTHS = {18: 1, 34: 1, 50: 4, 101: 4}
"""By which the stages of a ResNet are wider than 64, 128, 256 and 512."""


@dataclass(frozen=True)
class Encoder:
    """A config of what looks at both dates, and the channels and strides of its maps."""

    config: Mapping[str, Any]
    channels: Sequence[int]
    strides: Sequence[float]


def make_change_plan(schedule: PixelSchedule, options: ChangeOptions, data: DomainData, backbone: Backbone) -> Config:
    """The plan of a training on the train split.

    Raises:
        DataError: training tiles without change, or with nothing but change, or of more channels than the encoder's.
        CapabilityError: the tower gives no maps, or has no attention for LoRA.
    """
    train = data.split("train")
    check_training(train)
    channels = data.load(train[0]).shape[-1]
    encoder = _encoder(schedule, options, backbone, channels)
    batch = schedule.batch_size or BATCH
    steps = change_steps(schedule.epochs, len(train), batch)
    side = max(max(data.load_mask(item).shape) for item in train) if data.load_mask is not None else DIVISOR
    side = DIVISOR * math.ceil(side / DIVISOR)
    means = (backbone.image_mean, backbone.image_std) if options.encoder == TOWER else (MEAN, STD)
    mean, std = (list(_widened(values, channels)) for values in means)
    weight = options.change_weight or balancing_weight(train)
    model = {
        "type": "vladapt.ChangeSegmentor",
        "encoder": dict(encoder.config),
        "in_channels": list(encoder.channels),
        "mean": mean,
        "std": std,
        "channels": options.head_channels,
        "change_weight": weight,
        "dice": options.dice_weight,
        **_head(options, encoder),
    }
    dataset = {
        "type": "vladapt.ChangeWindows",
        "cases": [_case(item) for item in train],
        "size": [side, side],
        "draws": steps * batch,
        "seed": schedule.seed,
        "augment": options.augmented,
    }
    return Config(
        {
            "default_scope": "vladapt",
            "model": model,
            "train_dataloader": batch_loader(schedule, dataset),
            "train_cfg": {"by_epoch": False, "max_iters": steps},
            "optim_wrapper": optim_wrapper(schedule, encoder.config if options.tower == FULL else None),
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": min(WARM, steps), "by_epoch": False},
                {"type": "PolyLR", "power": 0.9, "eta_min": 0.0, "begin": 0, "end": steps + 1, "by_epoch": False},
            ],
            "vladapt": {
                "task": "change",
                "classes": list(CLASS_NAMES),
                "backbone": schedule.backbone,
                "channels": channels,
                "bands": backbone.channels.facts if backbone.by_band and backbone.channels is not None else None,
                "side": side,
                "thresholds": {},
            },
        }
    )


def check_training(items: Sequence[Item]) -> None:
    """Raise the DataError of training tiles that show one class alone."""
    for label, lacking in ((CHANGED, "no tile of the training shows a change"), (UNCHANGED, "all pixels changed")):
        if not any(label in item.classes() for item in items):
            raise DataError(f"{lacking}, so that nothing is to be learned; add pairs, or give another split")


def change_steps(epochs: int | None, tiles: int, batch: int) -> int:
    """Training steps: of the epochs that are asked for, else of 20, and 240 at least."""
    per_epoch = max(1, math.ceil(tiles / batch))
    return per_epoch * epochs if epochs else max(LEAST_STEPS, per_epoch * EPOCHS)


def balancing_weight(items: Sequence[Item]) -> float:
    """The square root of how many unchanged pixels there are for each changed one, 1 to 20."""
    counts = np.zeros(2, np.int64)
    for item in items:
        counts += np.bincount(load_change(item).ravel(), minlength=256)[[UNCHANGED, CHANGED]]
    return round(float(np.clip(np.sqrt(counts[UNCHANGED] / max(1, counts[CHANGED])), 1, MOST_WEIGHT)), 3)


def tower_config(backbone: str, options: ChangeOptions | None = None) -> dict[str, Any]:
    """The config of a tower that gives its own maps; without options, a frozen one."""
    how: dict[str, Any] = {"frozen": True}
    if options is not None and options.tower == LORA:
        how = {"lora": {"r": options.rank, "alpha": float(options.rank), "dropout": 0.0}}
    elif options is not None and options.tower == FULL:
        how = {"frozen_stages": -1}
    return {"type": "vladapt.CLIPVisionBackbone", "backbone": backbone, "pyramid": "taps", **how}


def _encoder(schedule: PixelSchedule, options: ChangeOptions, backbone: Backbone, channels: int) -> Encoder:
    if options.encoder != TOWER:
        depth = RESNETS[options.encoder]
        if schedule.channels is not None and schedule.channels.start != InputChannels.ZERO:
            raise ConfigError(f"--band-start {schedule.channels.start}: {options.encoder} starts from scratch; omit it")
        config = {"type": "mmseg.ResNet", "depth": depth, "in_channels": channels, "norm_eval": False}
        widths = [64 * RESNET_WIDTHS[depth] * 2**stage for stage in range(4)]
        return Encoder({**config, "norm_cfg": {"type": "BN", "requires_grad": True}}, widths, (4, 8, 16, 32))
    backbone.need("feature_maps")
    if options.tower == LORA:
        backbone.need("image_blocks")
    frozen = f"--tower {FROZEN}" if options.tower == FROZEN else ""
    of_bands = band_options(schedule.channels, channels, backbone, frozen, "resnet-18")
    config = {**tower_config(schedule.backbone, options), **of_bands}
    built = MODELS.build(dict(config))
    return Encoder(config, built.out_channels, built.strides)


def _head(options: ChangeOptions, encoder: Encoder) -> dict[str, Any]:
    """The neck and the head of mmsegmentation, where one is asked for."""
    if options.head == LIGHT:
        return {}
    channels, levels = options.head_channels, len(encoder.channels)
    shared = {
        "in_channels": [channels] * levels,
        "in_index": list(range(levels)),
        "channels": channels,
        "num_classes": 2,
        "dropout_ratio": 0.1,
        "norm_cfg": {"type": "GN", "num_groups": GROUPS, "requires_grad": True},
        "align_corners": False,
        "loss_decode": {"type": "mmseg.CrossEntropyLoss"},
    }
    neck = {"type": "mmseg.FPN", "in_channels": [channels] * levels, "out_channels": channels, "num_outs": levels}
    if options.head == FPN:
        strides = [int(stride) for stride in encoder.strides]
        return {"neck": neck, "decode_head": {"type": "mmseg.FPNHead", "feature_strides": strides, **shared}}
    return {"decode_head": {"type": "mmseg.UPerHead", "pool_scales": (1, 2, 3, 6), **shared}}


def _widened(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Of red, green and blue -> of all channels, further ones with the mean of these."""
    if len(values) == channels:
        return tuple(values)
    return (*values[:channels], *[sum(values) / len(values)] * (channels - len(values)))


def _case(item: Item) -> dict[str, Any]:
    decode = {key: value for key, value in item.decode.items() if key != "digest"}
    return {"source": str(Path(item.source).absolute()), "decode": decode, "mask": item.target.to_json()}
