"""What a run keeps of a plan: plain data, of registered types alone, from which its model is built again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mmengine import Config

from ...contracts.run_info import FittedRun
from ...errors import ConfigError, DataError
from .registered import (
    OF_DATA,
    OF_MODELS,
    OF_PIPELINES,
    check_parts,
    check_scope,
    registered_name,
    shown_value,
    without_sources,
)

KEPT = ("default_scope", "vladapt")
"""Beside the model, what of a plan its model needs after the training."""
OURS = {"classes": str, "test_pipeline": dict}
"""Lists that `vladapt` holds, and of what kind their entries are."""
TUPLE, NUMBER = "__tuple__", "__float__"


def check_plan(plan: Config) -> None:
    """Raise ConfigError unless the plan is a Config whose model is a plain dict, and can be built again from a run."""
    if not isinstance(plan, Config) or not isinstance(plan.get("model"), dict):
        raise ConfigError("a domain's plan must be an mmengine Config with `model` as a dict")
    try:
        plain = json.loads(json.dumps(kept_of(plan)))
    except TypeError:
        raise ConfigError("the plan's `model` must be plain data (it is kept in run.json)") from None
    try:
        check_kept(plain, "the config", registered=False)
    except DataError as error:
        fault = f"{error}".replace("the config: plan.", "the config: ").rpartition(";")[0]
        raise ConfigError(f"{fault}; a run of it could not be read again; change that") from None


def kept_of(plan: Config) -> dict[str, Any]:
    """What run.json keeps of a plan, as plain data, tuples told from lists: types by their registered names, and
    without where weights came from, all of which the run has.

    Raises:
        ConfigError: a type of the model is a class that no registry has.
    """
    plain = without_sources(needed_of(plan))
    plain["model"] = _with_registered_names(plain["model"], OF_MODELS)
    if isinstance(plain.get("vladapt"), dict):
        plain["vladapt"] = _with_registered_names(plain["vladapt"], OF_PIPELINES)
    return with_tuples_marked(plain)


def needed_of(plan: Config) -> dict[str, Any]:
    """The parts of a plan that a run needs, as they are."""
    whole = plan.to_dict()
    return {name: whole[name] for name in ("model", *KEPT) if name in whole}


def _with_registered_names(value: Any, registries) -> Any:
    if isinstance(value, dict):
        named = {key: _with_registered_names(inner, registries) for key, inner in value.items()}
        if isinstance(named.get("type"), str):
            named["type"] = _name_in_registry(named["type"], registries)
        return named
    if isinstance(value, (list, tuple)):
        return type(value)(_with_registered_names(inner, registries) for inner in value)
    return value


def _name_in_registry(name: str, registries) -> str:
    registered = registered_name(name, registries)
    if registered is None:
        raise ConfigError(
            f"the config names the class {shown_value(name)}, which no registry has, so a run of it could not be read "
            "again; register it"
        )
    return registered


def check_registered_types(run: FittedRun) -> None:
    """Refuse a run that names anything but registered types for its model, its transforms or its data.

    Raises:
        DataError: one line with the file and the key.
    """
    where = str(run.path / "run.json")
    if run.info.plan is not None:
        check_kept(run.info.plan, where)
    plan = run.info.recipe.get("plan") or {}
    if not isinstance(plan, Mapping):
        raise DataError(f"{where}: recipe.plan is damaged; fit again")
    check_scope(plan.get("default_scope") or "vladapt", f"{where}: recipe.plan.default_scope")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = plan.get(name)
        if isinstance(loader, Mapping):
            dataset = _without_pipelines(loader.get("dataset") or {})
            check_parts(dataset, f"{where}: recipe.plan.{name}.dataset", OF_DATA)


def check_kept(stored: Any, where: str, *, registered: bool = True) -> None:
    """Refuse what `kept_of` did not make, or what was changed since to build anything but registered types.

    Args:
        where: the file, for the message.
        registered: as of `check_parts`.

    Raises:
        DataError: one line with the key.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise DataError(f"{where}: plan holds no model; fit again")
    if other := sorted(set(stored) - {"model", *KEPT}):
        raise DataError(
            f"{where}: plan.{shown_value(other[0])}: a run keeps no such part of a plan; remove it, or fit again"
        )
    try:
        plan = with_tuples(stored)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: plan is damaged ({str(error)[:80]}); fit again") from None
    check_scope(plan.get("default_scope", "vladapt"), f"{where}: plan.default_scope")
    check_parts(plan["model"], f"{where}: plan.model", OF_MODELS, registered=registered)
    ours = plan.get("vladapt", {})
    check_parts(ours, f"{where}: plan.vladapt", OF_PIPELINES, registered=registered)
    for key, kind in OURS.items():
        if isinstance(ours, dict) and not all(isinstance(each, kind) for each in _listed(ours.get(key, ()))):
            raise DataError(f"{where}: plan.vladapt.{key} is damaged; fit again")


def _without_pipelines(value: Any) -> Any:
    """Data sets are read without their transforms."""
    if isinstance(value, Mapping):
        return {key: _without_pipelines(inner) for key, inner in value.items() if key != "pipeline"}
    return [_without_pipelines(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _listed(value: Any) -> Any:
    """The entries of a list; what is none stands for itself."""
    return value if isinstance(value, (list, tuple)) else (value,)


def with_tuples_marked(value: Any) -> Any:
    """JSON knows no tuples, which mm's transforms tell from lists, and no infinity."""
    if isinstance(value, dict):
        return {key: with_tuples_marked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        listed = [with_tuples_marked(inner) for inner in value]
        return {TUPLE: listed} if isinstance(value, tuple) else listed
    return {NUMBER: repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def with_tuples(value: Any) -> Any:
    """What `with_tuples_marked` was given."""
    if isinstance(value, dict) and set(value) == {TUPLE}:
        return tuple(with_tuples(inner) for inner in value[TUPLE])
    if isinstance(value, dict) and set(value) == {NUMBER}:
        return float(value[NUMBER])
    if isinstance(value, dict):
        return {key: with_tuples(inner) for key, inner in value.items()}
    return [with_tuples(inner) for inner in value] if isinstance(value, list) else value
