"""The steps of a fit that goes on from a start: its options checked, its data and its model before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from torch import nn

from ....core.contracts import Domain, DomainData, Item, Recipe
from ....core.data import decodable, images_of, readable
from ....core.errors import ConfigError, DataError
from ....core.runtime import Reporter
from ....core.tasks import quiet, train_plan, with_tuples
from ..data.boxes import annotated_boxes
from ..data.remembered import alike, spelled_as_in, without_boxes
from ..vocabulary import described_classes
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


def with_names(recipe: Recipe) -> Recipe:
    """The recipe with the names to remember as a list.

    Raises:
        ConfigError: no name, or one twice. DataError: a file that cannot be read.
    """
    given = recipe.task_options.get("remember")
    if given is None:
        return recipe
    given = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given  # one name, or a file
    try:
        names = list(described_classes(given))
    except (ConfigError, DataError) as error:
        raise type(error)(str(error).replace("--classes", "--remember")) from None
    return recipe.with_(task_options={**recipe.task_options, "remember": names})


def started(config: Mapping[str, Any], recipe: Recipe) -> Mapping[str, Any]:
    """The config, with the model and the weights of the start where one is given."""
    place = recipe.task_options.get("start")
    return on_start(config, start_at(place), recipe) if place else config


def described_before(recipe: Recipe) -> dict[str, Any]:
    """What a run that is started from was told of the names to remember: by these texts it knows them."""
    place = recipe.task_options.get("start")
    run = start_at(place).run if place else None
    told = {} if run is None else with_tuples(run.info["plan"])["vladapt"].get("described") or {}
    wanted = {alike(name): name for name in recipe.task_options.get("remember") or ()}
    known = {name: texts for name, texts in told.items() if alike(name) in wanted}
    return {**known, **{wanted[alike(name)]: texts for name, texts in known.items()}}  # however the data spell them


def check_options(recipe: Recipe, config_of: Callable[[Recipe], Mapping[str, Any]]) -> None:
    """Refuse what cannot be remembered, before any data are read.

    Args:
        config_of: gives the recipe's config, without the start.

    Raises:
        ConfigError, DataError, CapabilityError: one line.
    """
    options = recipe.task_options
    if not options.get("remember"):
        for name in OF_REMEMBERING:
            if options.get(name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')}: has an effect only with --remember; give --remember NAMES too"
                )
    if not any(options.get(name) for name in ("start", *OPTIONAL)):
        return
    config = started(config_of(recipe), recipe)
    for name in OPTIONAL:
        if options.get(name) and not config.get("load_from"):
            raise ConfigError(
                f"--{name.replace('_', '-')}: the training starts from an untrained detector; give a trained one, "
                "--start RUN"
            )
    if options.get("remember"):
        check_known(options["remember"], _start(recipe, config), config["model"])
        _check_novel(recipe.novel, options["remember"])
        if options.get("remember_images") and not Path(options["remember_images"]).exists():
            raise DataError(f"--remember-images {options['remember_images']}: no such folder; give one with images")


def with_boxes_before(
    recipe: Recipe,
    config: Mapping[str, Any],
    domain: Domain,
    data: DomainData,
    device: torch.device,
    reporter: Reporter,
) -> DomainData:
    """The set with what the detector before finds of the names to remember that train has no boxes of, in its training
    images and in those to remember by.

    Args:
        config: with the start.
    """
    names = spelled_as_in(data, recipe.task_options.get("remember") or ())
    if not names:
        return data
    missing, given = without_boxes(data, "train", names), recipe.task_options.get("remember_images")
    more = _further_images(given, recipe, domain) if given else []
    train = data.split("train") if missing else []
    if not train and not more:
        return data
    before, score = _before(recipe, config, names, device), _sure(recipe)
    with reporter.task("Looking for what is to be remembered") as progress, quiet():
        of_train = found_boxes(before, data, train, missing, progress)
        found = chain(of_train, found_boxes(before, data, more, names, progress))
        taught = {item.id: with_found(item, boxes, score) for item, boxes in found}
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
    plan: Config,
    folder: Path,
    recipe: Recipe,
    config: Mapping[str, Any],
    data: DomainData,
    device: torch.device,
    reporter: Reporter,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Run a plan, as `train_plan` does, as matrices of low rank where a rank is given; where names are to be remembered
    the model's weights are those between the start's and the trained ones, and its `memory` is of the detector before.

    Args:
        config: with the start.
        data: the chosen one, with the names to remember among its classes.
    """
    options = recipe.task_options
    change = partial(add_low_rank, rank=options["lora_rank"]) if options.get("lora_rank") else None
    model, history = train_plan(plan, folder, recipe.seed, device, reporter, recipe.resume, change)
    if change is not None:
        merge_low_rank(model)
    names = spelled_as_in(data, options.get("remember") or ())
    if names:
        memory = Memory(_before(recipe, config, names, device), names, _sure(recipe))
        with reporter.task("Choosing between before and after", unit="weights") as progress, quiet():
            memory.mix(model, data, options.get("wise_alpha"), progress)
        model.memory = memory
    return model, history


def _check_novel(novel: Any, names: Sequence[str]) -> None:
    """A name that is held out of training cannot be remembered by it."""
    if novel == "coco":
        raise ConfigError("--novel coco leaves out classes that are to be remembered; name the novel ones, or omit it")
    held_out = {alike(name) for name in str(novel or "").split(",")}
    if both := [name for name in names if alike(name) in held_out]:
        raise ConfigError(f"--novel and --remember both name '{both[0]}'; remove it from one of them")


def _sure(recipe: Recipe) -> float:
    given = recipe.task_options.get("remember_score")
    return SURE if given is None else given


def _start(recipe: Recipe, config: Mapping[str, Any]) -> Start:
    place = recipe.task_options.get("start")
    return start_at(place) if place else start_at(config["load_from"], "load_from")


def _before(recipe: Recipe, config: Mapping[str, Any], names: Sequence[str], device: torch.device) -> nn.Module:
    described = {} if recipe.classes in (None, "all") else described_classes(recipe.classes)
    described = {name: texts for name, texts in described.items() if texts}
    return detector_before(_start(recipe, config), config, names, described, device)


def _further_images(given: str, recipe: Recipe, domain: Domain) -> list[Item]:
    images = readable(decodable(images_of(domain, [given], recipe.reading)))
    return [item.with_(id=f"{TO_REMEMBER_BY}{item.id}", split="train") for item in images.items]


def _notes(data: DomainData, items: Sequence[Item], further: int) -> list[str]:
    before = sum(len(annotated_boxes(item).labels) for item in data.split("train"))
    after = sum(len(annotated_boxes(item).labels) for item in items if item.split == "train")
    given = f", {further} of them given to remember by" if further else ""
    images = sum(item.split == "train" for item in items)
    return [
        f"Boxes of the earlier detector, learned beside those annotated: {after - before} in {images} images{given}."
    ]
