"""From flags and `--set key=value` to a plan of a pre-training; every name is checked, nothing is passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...contracts.options import chosen, options_of
from ...contracts.recipe import value_of
from ...data.pairs.reading import READER, Reading
from ...errors import ConfigError, UnknownNameError, did_you_mean
from ...recipes.resolve import parse_set
from ...registry import loss_class
from ...training.objective import parse_losses
from ...training.settings import TrainingSettings
from .pretrain import PretrainPlan

SETTINGS = tuple(each.name for each in options_of(TrainingSettings))
OTHERS = ("image_size", "custom_hooks")


def plan_of(
    *,
    data: str,
    out: str,
    losses: Iterable[str],
    settings: Mapping[str, Any],
    sets: Iterable[str] = (),
    **places: Any,
) -> PretrainPlan:
    """The plan. Options of losses, settings and reader are checked here, before anything is read.

    Args:
        losses: "NAME" or "NAME=WEIGHT".
        settings: fields of TrainingSettings; None leaves the default.
        sets: "key=value": a setting, "image_size", "loss.NAME.OPTION" or "data.OPTION".
        places: further fields of PretrainPlan.

    Raises:
        ConfigError: a value is not usable. UnknownNameError: no such key.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    loss_options: dict[str, dict[str, Any]] = {}
    data_options: dict[str, Any] = {}
    for text in sets:
        key, value = parse_set(text, "layer_decay=0.7")
        head, _, rest = key.partition(".")
        if head == "loss" and "." in rest:
            name, _, option = rest.rpartition(".")
            loss_options.setdefault(name, {})[option] = value
        elif head == "data" and rest:
            data_options[rest] = value
        elif key in OTHERS:
            places[key] = value_of(key, value)
        elif key in SETTINGS:
            given[key] = value
        else:
            known = [*SETTINGS, *OTHERS, "loss.NAME.OPTION", "data.OPTION"]
            raise UnknownNameError(f"--set {key}: there is no such setting; {did_you_mean(key, known)}")
    weights = parse_losses(losses)
    for name in loss_options:
        if name not in weights:
            raise ConfigError(f"--set loss.{name}: '{name}' is not one of the losses ({', '.join(weights)})")
    classes = {name: loss_class(name) for name in weights}
    return PretrainPlan(
        data=data,
        out=out,
        losses=weights,
        loss_options={name: chosen(classes[name], options, f"loss '{name}'") for name, options in loss_options.items()},
        data_options=chosen(Reading, data_options, READER),
        settings=TrainingSettings(**given),
        **places,
    )
