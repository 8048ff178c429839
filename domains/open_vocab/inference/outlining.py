"""Outlines of boxes that a detector found, or of what a user shows, by a model of the Segment Anything family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....core.contracts import Boxes, DomainData, Use
from ....core.errors import ConfigError, DataError
from ....core.runs import Run
from ....core.tasks import KeptModel, build_model
from ..data.outlines import encode
from ..data.prompts import Prompts, read_prompts
from ..hub_models.prompted import PROMPTS
from ..hub_models.source import HubModel, hub_model, is_hub_place
from .joined import whole_pictures
from .running import check_shown, finds_itself, outcomes, shown_regions, takes_prompts

SEGMENTER = "vladapt.SAMSegmenter"
TRACKER, WHOLE_SAM3 = "sam3_tracker", "tracker_config"
"""The part of SAM 3 that outlines boxes, and the key of its configuration in that of the whole."""
KEPT = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "facts")


def check_segmenter(place: str) -> Run | HubModel:
    """What `--masks-by` names: a run of a model that outlines boxes, or one of the hub, before anything is built.

    Raises:
        DataError: nothing there, or a damaged run. ConfigError: a model or a run that outlines no boxes.
    """
    source: Run | HubModel | None = hub_model(place) if is_hub_place(place) else None
    if source is None:
        folder = Path(place.removeprefix("hf:")).expanduser()
        if not folder.is_dir():
            raise DataError(f"--masks-by {place}: no such run; give hf:OWNER/NAME, hf:FOLDER or a run of it")
        source = Run.open(folder)
        if str((KeptModel(source).plan() or {}).get("model", {}).get("type")) != SEGMENTER:
            raise ConfigError(f"--masks-by {place}: its model outlines no boxes; give a run of open-vocab/sam")
        return source
    if WHOLE_SAM3 not in source.config and source.family_class.asked_by != PROMPTS:
        raise ConfigError(
            f"--masks-by {place}: a {source.model_type}, which outlines no boxes; give a sam, a sam2, or a sam3 with "
            "its tracker (sam3_video, sam3_tracker; docs/detectors.md)"
        )
    return source


def segmenter_of(place: str, device: torch.device) -> nn.Module:
    """The model that outlines, with its weights, ready to be asked. Errors as of `check_segmenter`."""
    source = check_segmenter(place)
    if isinstance(source, Run):
        return KeptModel(source).load(device)
    config = source.config
    if WHOLE_SAM3 in config:
        config = {**config[WHOLE_SAM3], "model_type": TRACKER}
    model = {"type": SEGMENTER, "config": config, "processor": source.processor, "pretrained": str(source.folder)}
    kept = {"classes": [], "novel": [], "described": {}, "notes": [], "test_pipeline": pipeline_of(source.processor)}
    return build_model({"default_scope": "mmdet", "model": model, "vladapt": kept}, device).eval()


def pipeline_of(processor: dict[str, Any]) -> list[dict[str, Any]]:
    """Transforms of images for a model with this processor."""
    return [
        {"type": "vladapt.LoadItemImage"},
        {"type": "vladapt.ProcessorResize", "processor": processor},
        {"type": "PackDetInputs", "meta_keys": KEPT},
    ]


def with_prompt_names(use: Use) -> Use:
    """A use whose classes are those of its prompts too."""
    from ..vocabulary import described_classes

    if use.prompts is None:
        return use
    given = {} if use.classes is None else described_classes(use.classes)
    shown: dict[str, Any] = {name: [] for name in read_prompts(use.prompts).names if name not in given}
    return replace(use, classes={**{name: texts or [] for name, texts in given.items()}, **shown})


def with_prompts(model: nn.Module, data: DomainData, prompts: str | None) -> DomainData:
    """The images with what is shown on them.

    Raises:
        ConfigError: prompts for a model that takes none, or none for one that finds nothing itself.
    """
    if prompts is None and shown_regions(model):
        raise ConfigError(
            "this model outlines boxes and finds none itself; show them with --prompts FILE.json, or name this run "
            "with --masks-by where a detector predicts"
        )
    if prompts is None:
        return data
    if not takes_prompts(model):
        raise ConfigError("--prompts: this model finds by itself and takes no prompts; omit it, or give a SAM")
    shown: Prompts = read_prompts(prompts)
    check_shown(model, [each for listed in shown.by_image.values() for each in listed])
    if finds_itself(model):
        model.prompted = True
    return shown.on(data)


def with_outlines(
    rows: Sequence[dict[str, Any]], data: DomainData, segmenter: nn.Module, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """The rows of a detector with an outline of each box, as a COCO encoding; the boxes stay as they were found.

    Raises:
        DataError: a picture that was seen by windows is too large to be decoded as a whole.
    """
    pictures = whole_pictures(data)
    boxed = [
        pictures[row["id"]].with_(target=Boxes(boxes=tuple(map(tuple, row["boxes"])), labels=(0,) * len(row["boxes"])))
        for row in rows
        if row["boxes"]
    ]
    sizes = {row["id"]: row.get("size") for row in rows}
    masks: dict[str, list[dict[str, Any]]] = {}
    for item, sample in outcomes(segmenter, replace(data, class_names=("",)), boxed, progress):
        size = tuple(sample.ori_shape[:2])
        if tuple(sizes[item.id] or size) != size:
            raise DataError(f"{item.id}: too large to be outlined as a whole; omit --masks-by, or cut it into pictures")
        masks[item.id] = [encode(mask) for mask in sample.pred_instances.masks.numpy()]
    outlined = []
    for row in rows:
        outlined.append({**row, "masks": masks.get(row["id"], [])})
    return outlined
