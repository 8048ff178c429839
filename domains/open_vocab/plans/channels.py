"""A config for rasters: of more than three bands, and of more than 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....core.contracts import Backbone, DomainData, InputChannels, Item
from ....core.errors import CapabilityError, ConfigError
from .pipelines import Node, nodes

VISION = ("CLIPVisionBackbone", "CLIPC4Backbone")
PREPROCESSORS = {
    "SegDataPreProcessor": "mmseg.SegDataPreProcessor",
    "DetDataPreprocessor": "vladapt.ChannelDetDataPreprocessor",
    "ChannelDetDataPreprocessor": "vladapt.ChannelDetDataPreprocessor",
}
DISTORTION = "PhotoMetricDistortion"
OF_COLOURS = (
    *("YOLOXHSVRandomAug", "ColorTransform", "Color", "Brightness", "Contrast", "Sharpness", "Solarize", "SolarizeAdd"),
    *("Posterize", "Equalize", "AutoContrast", "Invert", "AutoAugment", "RandAugment", "Corrupt", "Albu", "CLAHE"),
    *("AdjustGamma", "RGB2Gray", "Rerange"),
)
"""Transforms of mmdet and mmseg that take 8 bits, or red, green and blue, or both."""
OF_IMAGES = ("OWLMosaic", "ProcessorResize", "ProcessorCrop", "Superpixels")
"""Ours that do."""


def is_deep(items: Sequence[Item], data: DomainData) -> bool:
    """Whether a domain decodes images of more than 8 bits; one of them tells."""
    item = next((item for item in items if item.decode.get(Item.READ_BY)), None)
    return item is not None and data.load(item).dtype != np.uint8


def check_channels(model: Node, channels: InputChannels) -> None:
    """Refuse a model that cannot read further channels.

    Raises:
        CapabilityError: one line.
    """
    backbone, given = model.get("backbone"), model.get("data_preprocessor")
    if not isinstance(backbone, dict) or not isinstance(given, dict) or _name(given) not in PREPROCESSORS:
        raise CapabilityError(
            f"--bands {','.join(channels.names)}: {_name(model)} reads pictures of three channels; give --bands of "
            "three, or a recipe with a backbone that can be widened (open-vocab/fpn, upernet, faster-rcnn)"
        )
    if any(node.get("frozen_tower") is not None for node in nodes(model)):
        raise CapabilityError(
            f"--bands {','.join(channels.names)}: frozen_tower reads pictures of three channels; omit it"
        )


def on_depth(plan: Node) -> list[str]:
    """Let the transforms of a plan keep more than 8 bits, in place, where all can. Returns notes."""
    of_images = _of_images(plan)
    if of_images:
        return [f"Rasters of more than 8 bits were rounded to 8, as {of_images[0]} takes them."]
    return _change_light(plan, {"to_float32": True})


def on_channels(
    plan: Node, channels: InputChannels, statistics: tuple[Sequence[float], Sequence[float]] | None
) -> list[str]:
    """Let a plan read images of more than three channels, in place.

    Args:
        statistics: mean and standard deviation of each channel, in 0..1; None: those of the config, widened.

    Returns:
        Notes.

    Raises:
        CapabilityError: as `check_channels`, or no layer of the backbone can be widened.
    """
    model = plan["model"]
    before = _learned_bands(plan, channels)
    backbone, given = model["backbone"], model["data_preprocessor"]
    if before:  # of the run that a training starts from
        statistics = [value / 255 for value in given["mean"]], [value / 255 for value in given["std"]]
    elif _name(backbone) in VISION:
        backbone["channels"] = channels.facts
    else:
        widening = {"names": list(channels.names), "start": channels.start}
        model["backbone"] = {"type": "vladapt.WidenedBackbone", "backbone": dict(backbone), **widening}
    mean, std = statistics or (_widened(given, "mean", channels), _widened(given, "std", channels))
    light = _reading_bands(plan, channels, mean, std)
    _train_input(plan, len(channels))
    stated = ", ".join(f"{name} {m:.3g} ± {s:.3g}" for name, m, s in zip(channels.names, mean, std))
    started = "the mean of its weights for these" if channels.start == InputChannels.MEAN else "zero"
    first, source = ", ".join(channels.names[:3]), "the training windows" if statistics else "the config"
    began = f"The backbone sees {first} as red, green and blue; {channels.further} started from {started}."
    if before:
        began, source = f"The backbone has learned {', '.join(before)}.", "the run that it started from"
    return [
        began,
        f"Bands are normalised by mean and standard deviation of {source}: {stated}.",
        *light,
    ]


def on_bands(plan: Node, tower: Backbone) -> list[str]:
    """Let a plan on a tower that takes bands by what they are read them, in place, normalised as the tower has it.

    Returns:
        Notes.

    Raises:
        CapabilityError: as `on_channels`.
    """
    channels, model = tower.channels, plan["model"]
    assert channels is not None
    _learned_bands(plan, channels)
    if _name(model["backbone"]) not in VISION:
        raise CapabilityError(
            f"--backbone {tower.spec}: {_name(model['backbone'])} cannot be told of its bands; give a recipe with a "
            f"{VISION[0]} (open-vocab/fpn, upernet, faster-rcnn)"
        )
    model["backbone"]["channels"] = channels.facts
    return [*tower.notes_on_channels(), *_reading_bands(plan, channels, tower.image_mean, tower.image_std)]


def _learned_bands(plan: Node, channels: InputChannels) -> Sequence[str]:
    """Names of the bands that the model has learned; none of one that has learned from three channels.

    Raises:
        CapabilityError: it has learned others, or cannot read these.
    """
    check_channels(plan["model"], channels)
    if of_images := _of_images(plan):
        raise CapabilityError(f"{of_images[0]} takes images of three channels; give --bands of three or another recipe")
    backbone = plan["model"]["backbone"]
    learned = backbone.get("names") or (backbone.get("channels") or {}).get("names") or ()
    if learned and tuple(learned) != channels.names:
        raise CapabilityError(f"--bands {','.join(channels.names)}: the model learned {','.join(learned)}; give these")
    return learned


def _reading_bands(plan: Node, channels: InputChannels, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """Let loaders give all bands, and the preprocessor normalise them, in place; notes on what was left out."""
    given = plan["model"]["data_preprocessor"]
    given.update(type=PREPROCESSORS[_name(given)], mean=[255 * each for each in mean], std=[255 * each for each in std])
    given.update(bgr_to_rgb=False, rgb_to_bgr=False)
    loading = {"bands": list(channels.names), "fill": given["mean"], "channels": "rgb", "to_float32": True}
    return _change_light(plan, loading)


def _widened(given: Node, key: str, channels: InputChannels) -> Sequence[float]:
    values = [value / 255 for value in given.get(key) or ()]
    if len(values) != 3:
        raise ConfigError(f"data_preprocessor.{key} has {len(values)} values; give those of three channels")
    return channels.widened(values)


def _train_input(plan: Node, count: int) -> None:
    """The layer that channels enter by learns at the whole rate, where towers learn at a share of it: what starts at
    zero has all to learn."""
    from mmengine.registry import init_default_scope

    from ....registry import MODELS
    from ..modules.backbones.channels import first_convolution

    init_default_scope(plan["default_scope"])
    wrapper = plan.get("optim_wrapper") or {}
    keys = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    backbone = plan["model"]["backbone"]
    name = f"backbone.{first_convolution(MODELS.build(dict(backbone)), count, _name(backbone))}"
    slowed = [key for key, how in keys.items() if key in name and how.get("lr_mult", 1.0) < 1.0]
    if slowed:
        keys[name] = {**keys[max(slowed, key=len)], "lr_mult": 1.0}


def _change_light(plan: Node, loading: Mapping[str, Any]) -> list[str]:
    """Give loaders of images options, and put what every band can take in the place of what only colours can."""
    left_out: set[str] = set()

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            name = _name(value)
            if name == "LoadItemImage":
                return {**value, **loading}
            if name == DISTORTION:
                kept = {key: value[key] for key in ("brightness_delta", "contrast_range") if key in value}
                return {"type": "vladapt.BandDistortion", **kept}
            return {key: changed(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            left_out.update(_name(each) for each in value if isinstance(each, dict) and _name(each) in OF_COLOURS)
            return type(value)(
                changed(each) for each in value if not (isinstance(each, dict) and _name(each) in OF_COLOURS)
            )
        return value

    for key in ("train_dataloader", "custom_hooks", "vladapt"):
        if key in plan:
            plan[key] = changed(plan[key])
    light = ", ".join(sorted(left_out))
    return [f"Left out, since it takes 8 bits of red, green and blue: {light}."] if light else []


def _of_images(plan: Node) -> list[str]:
    return sorted({name for node in nodes(plan) if (name := _name(node)) in OF_IMAGES})


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("type", "")).rsplit(".", 1)[-1]
