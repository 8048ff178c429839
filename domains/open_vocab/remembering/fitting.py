"""The steps of a fit that goes on from a start: its options checked, its data and its model before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from torch import nn

from ....core.contracts import DomainData, Item
from ....core.errors import ConfigError, DataError
from ....core.runtime import Reporter
from ....core.tasks import KeptModel, quiet_mm
from ..data.boxes import annotated_boxes
from ..data.remembered import spelled_as_in, without_boxes
from ..hub_models.starting import PRETRAINED
from ..vocabulary import alike, described_classes
from .boxes import found_boxes, with_found
from .low_rank import add_low_rank, merge_low_rank
from .memory import Memory
from .start import Start, check_known, detector_before, on_start, start_at

OF_TRAINING = ("start", "remember_images", "remember_score", "wise_alpha")
"""A plan has none of them."""
OPTIONAL = ("remember", "lora_rank")
"""They need a start, and a plan has them where they are given."""
OF_REMEMBERING = ("remember_images", "remember_score", "wise_alpha")
SURE = 0.5
"""From which score on what is found is a box to learn from, where nothing else is given."""
TO_REMEMBER_BY = "remembered/"
"""Before the ids of images that are given for it."""


@dataclass(frozen=True)
class Remembering:
    """What a training goes on from, and what it is to remember.

    Args:
        start: a run or a checkpoint, or None.
        names: to remember; empty for none.
        images: a folder of images to remember by, or None.
        score: from which score on what is found is a box to learn from.
        wise_alpha: share of the trained weights in the kept ones; None to choose it.
        lora_rank: of the matrices trained in place of the weights; None to train these.
        changes: dotted name inside the model's config -> value, as it was given; the start's model is changed by them.
        backbone: the one that was given, or None.
        classes: names, or a file of names and descriptions, as they were given; None or "all" for those of the data.
    """

    start: str | None = None
    names: tuple[str, ...] = ()
    images: str | None = None
    score: float = SURE
    wise_alpha: float | None = None
    lora_rank: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    classes: Any = None

    def started(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config, with the model and the weights of the start where one is given."""
        return on_start(config, start_at(self.start), self.changes, self.backbone) if self.start else config

    def begins_at(self, config: Mapping[str, Any]) -> Start:
        """The start, or the checkpoint that the config goes on from."""
        return start_at(self.start) if self.start else start_at(config["load_from"], "load_from")

    def detector(self, config: Mapping[str, Any], names: Sequence[str], device: torch.device) -> nn.Module:
        """The detector as it is before the training; see `detector_before`.

        Args:
            config: with the start.
            names: to remember, as the data spell them.
        """
        described = {} if self.classes in (None, "all") else described_classes(self.classes)
        described = {name: texts for name, texts in described.items() if texts}
        return detector_before(self.begins_at(config), config, names, described, device)


def names_to_remember(given: Any) -> list[str] | None:
    """The names, from a list or a file of them; None where nothing is given.

    Raises:
        ConfigError: no name, or one twice. DataError: a file that cannot be read.
    """
    if given is None:
        return None
    given = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given  # one name, or a file
    try:
        return list(described_classes(given))
    except (ConfigError, DataError) as error:
        raise type(error)(str(error).replace("--classes", "--remember")) from None


def described_before(remembering: Remembering) -> dict[str, Any]:
    """What a run that is started from was told of the names to remember: by these texts it knows them."""
    run = start_at(remembering.start).run if remembering.start else None
    told = {} if run is None else KeptModel(run).plan()["vladapt"].get("described") or {}
    wanted = {alike(name): name for name in remembering.names}
    known = {name: texts for name, texts in told.items() if alike(name) in wanted}
    return {**known, **{wanted[alike(name)]: texts for name, texts in known.items()}}  # however the data spell them


def check_options(remembering: Remembering, options: Mapping[str, Any], config: Mapping[str, Any], novel: Any) -> None:
    """Refuse what cannot be remembered, before any data are read.

    Args:
        options: of the task, as they were given.
        config: without the start.
        novel: names that are tested but not trained, as they were given.

    Raises:
        ConfigError, DataError, CapabilityError: one line.
    """
    if not remembering.names:
        for name in OF_REMEMBERING:
            if options.get(name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: has an effect only with --remember; give --remember NAMES too"
                )
    if not any(options.get(name) for name in ("start", *OPTIONAL)):
        return
    config = remembering.started(config)
    for name in OPTIONAL:
        if options.get(name) and not (config.get("load_from") or config["model"].get(PRETRAINED)):
            raise ConfigError(
                f"--{name.replace('_', '-')}: the training starts from an untrained detector; give a trained one, "
                "--start RUN"
            )
    if remembering.names:
        check_known(remembering.names, remembering.begins_at(config), config["model"])
        _check_novel(novel, remembering.names)
        if remembering.images and not Path(remembering.images).exists():
            raise DataError(f"--remember-images {remembering.images}: no such folder; give one with images")


def with_boxes_before(
    remembering: Remembering,
    config: Mapping[str, Any],
    data: DomainData,
    further_images: Callable[[str], DomainData],
    device: torch.device,
    reporter: Reporter,
) -> DomainData:
    """The set with what the detector before finds of the names to remember that train has no boxes of, in its training
    images and in those to remember by.

    Args:
        config: with the start.
        further_images: reads the folder of images to remember by.
    """
    names = spelled_as_in(data, remembering.names)
    if not names:
        return data
    missing = without_boxes(data, "train", names)
    more = _to_remember_by(further_images(remembering.images)) if remembering.images else []
    train = data.split("train") if missing else []
    if not train and not more:
        return data
    before = remembering.detector(config, names, device)
    with reporter.task("Looking for what is to be remembered") as progress, quiet_mm():
        of_train = found_boxes(before, data, train, missing, progress)
        found = chain(of_train, found_boxes(before, data, more, names, progress))
        taught = {item.id: with_found(item, boxes, remembering.score) for item, boxes in found}
    items = [taught.get(item.id, item) if item.split == "train" else item for item in data.items]
    items += [taught[item.id] for item in more]
    return replace(data, items=items, notes=[*data.notes, *_notes(data, items, len(more))])


def without_options_of_training(plan: Config) -> Config:
    """The plan without options that say nothing, and without those that a run need not know: nothing that it predicts,
    scores or has in its checkpoints depends on them."""
    plan.vladapt = {
        name: value
        for name, value in plan.vladapt.items()
        if name not in OF_TRAINING and not (value is None and name in OPTIONAL)
    }
    return plan


def trained_and_kept(
    train: Callable[[Callable[[nn.Module], Any] | None], tuple[nn.Module, list[dict[str, float]]]],
    remembering: Remembering,
    config: Mapping[str, Any],
    data: DomainData,
    device: torch.device,
    reporter: Reporter,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train, as matrices of low rank where a rank is given; where names are to be remembered the model's weights are
    those between the start's and the trained ones, and its `memory` is of the detector before.

    Args:
        train: runs the plan, as `train_plan` does, with what changes its model before, or None.
        config: with the start.
        data: the chosen one, with the names to remember among its classes.
    """
    rank = remembering.lora_rank
    model, history = train(partial(add_low_rank, rank=rank) if rank else None)
    if rank:
        merge_low_rank(model)
    names = spelled_as_in(data, remembering.names)
    if names:
        memory = Memory(remembering.detector(config, names, device), names, remembering.score)
        with reporter.task("Choosing between before and after", unit="weights") as progress, quiet_mm():
            memory.mix(model, data, remembering.wise_alpha, progress)
        model.memory = memory
    return model, history


def _check_novel(novel: Any, names: Sequence[str]) -> None:
    """A name that is held out of training cannot be remembered by it."""
    if novel == "coco":
        raise ConfigError("--novel coco leaves out classes that are to be remembered; name the novel ones, or omit it")
    held_out = {alike(name) for name in str(novel or "").split(",")}
    if both := [name for name in names if alike(name) in held_out]:
        raise ConfigError(f"--novel and --remember both name '{both[0]}'; remove it from one of them")


def _to_remember_by(images: DomainData) -> list[Item]:
    return [item.with_(id=f"{TO_REMEMBER_BY}{item.id}", split="train") for item in images.items]


def _notes(data: DomainData, items: Sequence[Item], further: int) -> list[str]:
    before = sum(len(annotated_boxes(item).labels) for item in data.split("train"))
    after = sum(len(annotated_boxes(item).labels) for item in items if item.split == "train")
    given = f", {further} of them given to remember by" if further else ""
    images = sum(item.split == "train" for item in items)
    return [
        f"Boxes of the earlier detector, learned beside those annotated: {after - before} in {images} images{given}."
    ]
