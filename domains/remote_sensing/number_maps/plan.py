"""The training of a network that predicts a number per pixel, as an mmengine config of parts of mmsegmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine import Config

from ....core.contracts import Backbone, DomainData, InputChannels, Item
from ....core.errors import ConfigError, DataError
from ..pixel_options import FROZEN, FULL, LORA, PIXEL, TOWER, PixelOptions, PixelSchedule
from ..pixel_training import BATCH, batch_loader, optim_wrapper
from ..tower_bands import band_options
from .target import NumberMap, item_pixels

EPOCHS, LEAST_STEPS = 20, 400
WARM = 20
SAMPLED = 64
"""Training windows that the mean and deviation of channels are computed of, where no tower has its own."""
SMALLEST = 64
"""Pixels from which channels and strides of a convolutional tower are read."""
LEVELS, GROUPS = 4, 32
BLOCKS = {"resnet18": (18, (64, 128, 256, 512)), "resnet50": (50, (256, 512, 1024, 2048))}
STRIDES = (4, 8, 16, 32)


def make_number_plan(
    schedule: PixelSchedule, options: PixelOptions, data: DomainData, backbone: Backbone, changes: Mapping[str, Any]
) -> Config:
    """The plan of a training on the train split.

    Args:
        backbone: whose image tower is the encoder, unless a network from scratch is asked for.
        changes: of this config, by the user.

    Raises:
        DataError: the training targets are all the same. ConfigError: options that do not fit.
    """
    train = data.split("train")
    mean, std = target_statistics(train)
    cases, size = cases_of(train), window_size(train)
    pixel_mean, pixel_std = _normalisation(options, train, backbone)
    batch, steps = schedule.batch_size or BATCH, _steps_of(schedule, options, len(train))
    encoder, neck, head = _parts_of(options, len(pixel_mean), backbone, schedule)
    scaled = options.interval_width == PIXEL
    head |= {"num_classes": 1 + scaled, "out_channels": 1 + scaled, "threshold": 0.0}
    model = {
        "type": "vladapt.PixelRegressor",
        "backbone": encoder,
        "neck": neck,
        "decode_head": head,
        "mean": list(map(float, pixel_mean)),
        "std": list(map(float, pixel_std)),
        "target_mean": mean,
        "target_std": std,
        "loss": options.loss_kind,
        "scaled": scaled,
    }
    trains_whole = options.encoder == TOWER and options.tuned == FULL
    dataset = {
        "type": "vladapt.NumberWindows",
        "cases": cases,
        "size": size,
        "draws": steps * batch,
        "seed": schedule.seed,
        "turned": options.augment == "turns",
    }
    source = train[0].target.source
    plan = Config(
        {
            "default_scope": "mmseg",
            "model": model,
            "train_dataloader": batch_loader(schedule, dataset),
            "train_cfg": {"by_epoch": False, "max_iters": steps},
            "optim_wrapper": optim_wrapper(schedule, encoder if trains_whole else None, "backbone"),
            "param_scheduler": _rates(steps),
            "vladapt": {
                "task": "pixel-regression",
                "classes": [],
                "window": size,
                "target": source.name,
                "unit": options.target_unit or source.unit,
                "coverage": options.interval,
            },
        }
    )
    plan.merge_from_dict(dict(changes))
    return plan


def number_plan_facts(schedule: PixelSchedule, options: PixelOptions, data: DomainData) -> dict[str, Any]:
    """What would be trained, JSON-able."""
    train = data.split("train")
    mean, std = target_statistics(train)
    return {
        "encoder": schedule.backbone if options.encoder == TOWER else options.encoder,
        "decoder": options.decoder,
        "training_windows": len(train),
        "window": window_size(train),
        "target_mean": mean,
        "target_std": std,
        "batch_size": schedule.batch_size or BATCH,
        "steps": _steps_of(schedule, options, len(train)),
    }


def _steps_of(schedule: PixelSchedule, options: PixelOptions, windows: int) -> int:
    """As many as are asked for; else as epochs make of so many windows."""
    if options.steps is not None:
        return options.steps
    per_epoch = math.ceil(windows / (schedule.batch_size or BATCH))
    return max(1, schedule.epochs * per_epoch) if schedule.epochs else max(LEAST_STEPS, EPOCHS * per_epoch)


def target_statistics(items: Sequence[Item]) -> tuple[float, float]:
    """Mean and standard deviation of the numbers of some windows.

    Raises:
        DataError: all are the same.
    """
    maps: list[NumberMap] = [item.target for item in items]
    count = sum(each.count for each in maps)
    mean = sum(each.total for each in maps) / count
    variance = sum(each.squares - 2 * mean * each.total + each.count * mean**2 for each in maps) / count
    if variance <= 1e-12 * max(1.0, mean**2):
        raise DataError(
            f"{maps[0].source.file}: all training pixels have the number {mean:g}; give a target that differs"
        )
    return mean, math.sqrt(variance)


def window_size(items: Sequence[Item]) -> int:
    """The longest side of some windows."""
    return max(max(item.target.box[2:]) for item in items)


def cases_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """As `NumberWindows` takes them: each image once, with its windows."""
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for item in items:
        key = next((name for name in ("window", "box") if name in item.decode), "")
        decode = {name: value for name, value in item.decode.items() if name != key}
        case = {"source": str(item.source), "decode": decode, "target": item.target.source.to_json(), "key": key}
        held = cases.setdefault((str(item.source), str(item.target.source.file)), {**case, "windows": []})
        held["windows"].append(list(item.target.box))
    return list(cases.values())


def _parts_of(
    options: PixelOptions, channels: int, backbone: Backbone, schedule: PixelSchedule
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]:
    """Configs of encoder, neck or None, and head.

    Args:
        channels: of the images.
    """
    width, groups = options.channels, math.gcd(options.channels, GROUPS)
    groups = groups // 2 if groups == width else groups  # a group of one channel has no deviation on a map of one cell
    norm = {"type": "GN", "num_groups": groups, "requires_grad": True}
    head: dict[str, Any] = {"channels": width, "dropout_ratio": 0.0, "norm_cfg": norm, "align_corners": False}
    if options.encoder == "unet":
        _check_start(schedule.channels, options.encoder)
        encoder = {"type": "mmseg.UNet", "in_channels": channels, "base_channels": width, "norm_cfg": norm}
        return encoder, None, {"type": "mmseg.FCNHead", **head, "in_channels": width, "in_index": 4, "num_convs": 1}
    if options.encoder == TOWER:
        encoder, outputs, strides = _tower(options, channels, backbone, schedule)
    else:
        depth, outputs = BLOCKS[options.encoder]
        _check_start(schedule.channels, options.encoder)
        strides = STRIDES
        norms = {"type": "BN", "requires_grad": True}
        encoder = {
            "type": "mmseg.ResNet",
            "depth": depth,
            "in_channels": channels,
            "norm_cfg": norms,
            "style": "pytorch",
        }
    maps = {"in_channels": list(outputs), "in_index": list(range(len(outputs)))}
    if options.decoder == "linear":
        joined = {"input_transform": "resize_concat", "num_convs": 0, "concat_input": False}
        joined |= {"channels": sum(outputs), "norm_cfg": None}
        return encoder, None, {"type": "mmseg.FCNHead", **head, **maps, **joined}
    if options.decoder == "upernet":
        return encoder, None, {"type": "mmseg.UPerHead", **head, **maps}
    neck = {"type": "mmseg.FPN", "in_channels": list(outputs), "out_channels": width, "num_outs": len(outputs)}
    maps["in_channels"] = [width] * len(outputs)
    return encoder, neck, {"type": "mmseg.FPNHead", **head, **maps, "feature_strides": list(strides)}


def _check_start(channels: InputChannels | None, encoder: str) -> None:
    if channels is not None and channels.start != InputChannels.ZERO:
        raise ConfigError(f"--band-start {channels.start}: {encoder} starts from scratch; omit it")


@torch.no_grad()
def _tower(
    options: PixelOptions, channels: int, backbone: Backbone, schedule: PixelSchedule
) -> tuple[dict[str, Any], Sequence[int], Sequence[float]]:
    """Config of an image tower, and channels and strides of its maps."""
    backbone.need("feature_maps")
    encoder: dict[str, Any] = {"type": "vladapt.CLIPVisionBackbone", "backbone": schedule.backbone}
    if options.tuned == FROZEN:
        encoder["frozen"] = True
    elif options.tuned == LORA:
        encoder["lora"] = {"r": options.rank}
    frozen = f"--tuned {FROZEN}" if options.tuned == FROZEN else ""
    encoder |= band_options(schedule.channels, channels, backbone, frozen)
    if "image_blocks" not in backbone.capabilities:
        blank = torch.zeros(1, len(backbone.image_mean), SMALLEST, SMALLEST, device=backbone.device)
        maps = backbone.feature_maps(blank)
        return encoder, [each.shape[1] for each in maps], [SMALLEST // each.shape[-1] for each in maps]
    if options.decoder == "linear":
        return {**encoder, "pyramid": "taps"}, [backbone.width("image")] * LEVELS, [backbone.image_stride] * LEVELS
    finest = backbone.image_stride / 4
    pyramid = {"pyramid": "simple", "out_channels": options.channels, "num_outs": LEVELS}
    return {**encoder, **pyramid}, [options.channels] * LEVELS, [finest * 2**level for level in range(LEVELS)]


def _normalisation(
    options: PixelOptions, train: Sequence[Item], backbone: Backbone
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel: the tower's own, or of training windows."""
    places = np.unique(np.linspace(0, len(train) - 1, SAMPLED).round().astype(int))
    if options.encoder == TOWER:
        channels = item_pixels(train[0])[0].shape[-1]
        if channels == len(backbone.image_mean):
            return backbone.image_mean, backbone.image_std
    values = []
    for place in places:
        pixels, seen = item_pixels(train[place])
        values.append(pixels[seen][:: max(1, int(seen.sum()) // 1000)])
    whole = np.concatenate(values)
    return whole.mean(axis=0), np.maximum(whole.std(axis=0), 1e-3)


def _rates(steps: int) -> list[dict[str, Any]]:
    """A warm-up, then a cosine."""
    warm = max(1, min(WARM, steps // 5))
    return [
        {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": warm, "by_epoch": False},
        {"type": "CosineAnnealingLR", "eta_min": 0.0, "begin": warm, "end": max(steps, warm + 1), "by_epoch": False},
    ]
