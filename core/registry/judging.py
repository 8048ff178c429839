"""The judgements of a task: its own, and those that other packages bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contracts.judgement import FIT, Judgement
from ..contracts.options import options_of
from ..contracts.task import Task
from ..errors import ConfigError
from . import catalogue
from .build import build_judgement, judgement_class


def judgements_of(task: type[Task] | Task) -> dict[str, type[Judgement]]:
    """Name -> class of all that is said of the fits of a task: what it names itself, then what is installed besides.

    Raises:
        UnknownNameError: it names one that there is not. ConfigError: one of another package does not import.
    """
    found = {name: judgement_class(name) for name in task.judgements}
    if task.judges is not None:
        others = {name: judgement_class(name) for name, at in catalogue.judgements().items() if at.entry_point}
        found |= {name: of for name, of in others.items() if issubclass(task.judges, of.judges)}
    return found


def judging_options(task: type[Task] | Task, at: str) -> dict[str, str]:
    """Option -> the judgement whose it is, of all that a task makes at "fit" or "eval".

    Raises:
        ConfigError: two judgements have an option of one name.
    """
    owners: dict[str, str] = {}
    for name, of in judgements_of(task).items():
        for each in options_of(of) if at in of.at else ():
            if owners.setdefault(each.name, name) != name:
                raise ConfigError(f"judgements '{owners[each.name]}' and '{name}' both have an option '{each.name}'")
    return owners


def judges_at(task: Task, at: str, given: Mapping[str, Any] | None = None) -> list[Judgement]:
    """The judgements that a task makes at "fit" or "eval", in their order.

    Args:
        given: options by name, which may be of others too; what is None is not given.

    Raises:
        ConfigError: a value that its option does not accept.
    """
    owners = judging_options(task, at)
    values = {key: value for key, value in (given or {}).items() if key in owners and value is not None}
    return [
        build_judgement(name, **{key: value for key, value in values.items() if owners[key] == name})
        for name, of in judgements_of(task).items()
        if at in of.at
    ]


def check_judging(task: Task, at: str, given: Mapping[str, Any]) -> None:
    """Raise the ConfigError of an option that no judgement of the task has there, or of a value it does not accept."""
    owners = judging_options(task, at) if given else {}
    for key in given:
        if key not in owners:
            raise ConfigError(f"--{key.replace('_', '-')}: {task.title} does not use it; omit it")
    if given:
        judges_at(task, at, given)


def divided(task: Task, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a fit's options are for: the task itself, as they were given, and its judgements, each value in its type.

    Raises:
        ConfigError: a value that its option does not accept.
    """
    owners = judging_options(task, FIT) if given else {}
    judging = {key: value for key, value in given.items() if key in owners}
    made = {judgement.name: judgement for judgement in judges_at(task, FIT, judging)} if judging else {}
    own = {key: value for key, value in given.items() if key not in owners}
    return own, {key: getattr(made[owners[key]], key) for key in judging}
