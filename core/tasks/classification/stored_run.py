"""What a run folder holds of a fit, read again: its recipe, its files where they are found from here, its adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.recipe import SAMPLE, Recipe
from ...contracts.task import Use
from ...contracts.use import FittedRun
from ...errors import ConfigError, DataError
from ...registry import load_adapter
from ...runs.redaction import LEFT_OUT
from .base_run import place_of_base

CLASS_FILES = (".txt", ".json")


def recipe_again(use: Use) -> Recipe:
    """The run's own recipe, on the data, device and resources that are asked for.

    Raises:
        DataError: the run's own data is needed and not there any more, or its recipe is damaged.
    """
    recipe = _recipe_of(use.run)
    base = place_of_base(use.run.info, use.run.path)
    resources = {**recipe.resources, **({"base": base} if base else {}), **(use.resources or {})}
    resources = {name: value for name, value in resources.items() if value != LEFT_OUT}
    workers = recipe.workers if use.workers is None else use.workers
    data = {**recipe.data, **(use.reading or {})}
    recipe = recipe.with_(device=use.device, workers=workers, resources=resources, data=data)
    if use.images:
        return recipe
    if use.data or use.features:
        return recipe.with_source(data=use.data or SAMPLE, features=use.features)
    place = (use.run.info.get("data") or {}).get("path", recipe.data_path)
    if place == LEFT_OUT:
        raise DataError(f"{use.run.shown}: redacted, so it does not say where its data is; give --data or --features")
    place = place if place == SAMPLE else located(use.run, place)
    if place != SAMPLE and not Path(place).exists():
        origin = use.run.info.get("origin")
        where = os.path.abspath(use.run.path / origin / place) if isinstance(origin, str) else place
        raise DataError(f"{where}: the run's own data is no longer there; give other data with --data or --features")
    return recipe.with_(features=place) if recipe.features else recipe.with_source(data=place)


def _recipe_of(run: FittedRun) -> Recipe:
    """The recipe of the fit, its files where they are found from here."""
    try:
        recipe = Recipe.of(run.info["recipe"])
    except ConfigError as error:
        raise DataError(f"{run.path / 'run.json'}: its recipe is damaged ({error}); fit again") from error
    resources = {name: located(run, value) for name, value in recipe.resources.items()}
    files = {key: located(run, getattr(recipe, key)) for key in ("descriptions", "generic")}
    if str(recipe.classes).endswith(CLASS_FILES):
        files["classes"] = located(run, recipe.classes)
    return recipe.with_(resources=resources, **files)


def located(run: FittedRun, value: Any) -> Any:
    """A path, or paths, comma-separated or in a list, of the working directory of a fit as they are found from here,
    where they are there; other words as they are."""
    origin = run.info.get("origin")
    if not isinstance(origin, str):
        return value
    if isinstance(value, (list, tuple)):
        return [located(run, part) for part in value]
    if not isinstance(value, str) or not value:
        return value
    whole = os.path.normpath(run.path / origin / value)
    if Path(whole).exists():
        return whole
    there = [os.path.normpath(run.path / origin / part.strip()) for part in value.split(",")]
    return ",".join(new if Path(new).exists() else old.strip() for new, old in zip(there, value.split(",")))


def fitted_adapter(run: FittedRun, backbone: Backbone | None) -> Adapter:
    """The adapter of a run.

    Raises:
        DataError: it is of other classes than run.json says, or as for `load_adapter`.
    """
    adapter = load_adapter(run.adapter_path, backbone)
    if list(adapter.class_names_) != run.info["class_names"]:
        raise DataError(f"{run.shown}: run.json and adapter.safetensors have different classes; copy the run again")
    return adapter
