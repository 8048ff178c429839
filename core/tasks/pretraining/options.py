"""From flags and `--set key=value` to a plan of a pre-training; every name is checked, nothing is passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...contracts.options import chosen, options_of
from ...contracts.recipe import value_of
from ...contracts.sources import parse_sources, sources_in
from ...data.pairs.reading import READER, PairReading
from ...data.pairs.text_pairs import TextReading
from ...errors import ConfigError, UnknownNameError, did_you_mean
from ...recipes.resolve import parse_set, resolve, task_of
from ...registry import loss_class
from ...training.objective import need_sentences_alone, parse_losses
from ...training.settings import BY_STEP, TrainingSettings
from .continuing import WITH_TEACHER, ContinualOptions, ContinualPlan
from .pretrain import PretrainPlan
from .task import PretrainingOptions
from .translations import READER as OF_SENTENCES

PRETRAINING = "pretraining"
SETTINGS = tuple(each.name for each in options_of(TrainingSettings))
OTHERS = ("image_size", "custom_hooks")
OF_TASK = ("inherit", "teacher_features")
SET_EXAMPLE = "layer_decay=0.7"
OF_LOSSES, OF_CONTINUAL = "loss.", "continual."


def plan_of(
    *,
    data: str | Sequence[str],
    out: str,
    losses: Iterable[str] | None,
    settings: Mapping[str, Any],
    sets: Iterable[str] = (),
    **places: Any,
) -> PretrainPlan:
    """The plan for plain files of pairs. Options of losses, settings and reader are checked here, before anything is
    read.

    Args:
        data: "PATH" or "PATH=WEIGHT", one or several.
        losses: "NAME" or "NAME=WEIGHT"; None is clip.
        settings: fields of TrainingSettings; None leaves the default.
        sets: "key=value": a setting, "image_size", "loss.NAME.OPTION", "data.OPTION" or "sources.OPTION".
        places: further fields of PretrainPlan, "mixing" as a mapping; None leaves the default.

    Raises:
        ConfigError: a value is not usable. UnknownNameError: no such key.
    """
    set_values = {name: value for name, value in settings.items() if value is not None}
    places = {name: value for name, value in places.items() if value is not None}
    asked, of_losses = _parsed(sets)
    data_options: dict[str, Any] = {}
    mixing = dict(places.pop("mixing", {}))
    for key, value in asked.items():
        head, _, rest = key.partition(".")
        if head == "data" and rest:
            data_options[rest] = value
        elif head == "sources" and rest:
            mixing[rest] = value
        elif key in OTHERS:
            places[key] = value_of(key, value)
        elif key in OF_TASK:
            places |= chosen(PretrainingOptions, {key: value}, "pre-training")
        elif key in SETTINGS:
            set_values[key] = value
        else:
            settable = [*SETTINGS, *OTHERS, *OF_TASK, "loss.NAME.OPTION", "data.OPTION", "sources.OPTION"]
            raise UnknownNameError(f"--set {key}: there is no such setting; {did_you_mean(key, settable)}")
    weights = parse_losses(losses or ("clip",))
    reading, reader = (TextReading, OF_SENTENCES) if need_sentences_alone(weights) else (PairReading, READER)
    sources, options = sources_in({"data": data, **mixing})
    return PretrainPlan(
        data=sources[0].path,
        sources=sources if len(sources) > 1 or mixing else (),
        mixing=options,
        out=out,
        losses=weights,
        loss_options=_of_losses(weights, {}, of_losses),
        data_options=chosen(reading, data_options, reader),
        settings=TrainingSettings(**set_values),
        **places,
    )


def plan_of_recipe(
    named: str | None,
    *,
    data: Sequence[str] = (),
    mixing: Mapping[str, Any] | None = None,
    losses: Iterable[str] | None,
    settings: Mapping[str, Any],
    sets: Iterable[str] = (),
    **flags: Any,
) -> PretrainPlan:
    """The plan of a packaged recipe, or of pairs that a domain reads, with what was given besides.

    Args:
        named: the recipe; None where a domain alone is named.
        data, mixing: as of `plan_of`; without data those of `flags`, or the recipe's.
        losses, settings, sets: as of `plan_of`; what is not given is the recipe's.
        flags: keys of a recipe.

    Raises:
        As `plan_of`, and ConfigError: the recipe is of another task, or the domain reads no captions.
    """
    if named and (other := resolve(recipe=named).task) != PRETRAINING:
        raise ConfigError(f"--recipe {named}: a recipe of {other or 'classification'}; give it to `vladapt fit`")
    asked, of_losses = _parsed(sets)
    flags |= {"data.path": parse_sources(data)[0].path} if data else {}
    flags |= {"sources.data": data} if len(data) > 1 else {}
    flags |= {f"sources.{key}": value for key, value in (mixing or {}).items()}
    made = resolve(
        recipe=named,
        flags={**flags, **settings, "loss": losses and tuple(losses), "task": PRETRAINING, **asked},
    )
    task = task_of(made)
    plan = task.plan(task.settled(made))
    of_recipe = {name: options for name, options in plan.loss_options.items() if name in plan.losses}
    return replace(plan, loss_options=_of_losses(plan.losses, of_recipe, of_losses))


def continual_plan_of(
    *,
    then: Sequence[str],
    losses: Sequence[str] | None,
    settings: Mapping[str, Any],
    sets: Sequence[str] = (),
    named: str | None = None,
    domain: str | None = None,
    data: str | Sequence[str],
    mixing: Mapping[str, Any] | None = None,
    **rest: Any,
) -> ContinualPlan:
    """The plan of sets that follow each other. Where nothing else is said, rates are warmed up again with each set, in
    1 % of its steps, and fall to a tenth of the peak.

    Args:
        then: the sets after the first.
        losses, settings, sets: as of `plan_of`; of `sets` also "continual.OPTION".
        named, domain: as of `plan_of_recipe`.
        data, mixing: of the first set, as of `plan_of`.
        rest: "continual", "wise_ft", and further arguments of the two.

    Raises:
        As `plan_of`, and ConfigError: the method and the losses do not go together.
    """
    own = dict(parse_set(text, SET_EXAMPLE) for text in sets if text.startswith(OF_CONTINUAL))
    asked = {"method": rest.pop("continual", None), "wise_ft": rest.pop("wise_ft", None)}
    asked = {name: value for name, value in asked.items() if value is not None}
    asked |= {key.removeprefix(OF_CONTINUAL): value for key, value in own.items()}
    options = ContinualOptions(**chosen(ContinualOptions, asked, "--continual"))
    others = [text for text in sets if not text.startswith(OF_CONTINUAL)]
    if not (named or domain):
        settings = {**settings, **_rewarmed(settings, others)}
    data = [data] if isinstance(data, str) else data
    how: dict[str, Any] = {"data": data, "mixing": mixing or {}, "settings": settings, **rest}

    def plan(losses: Sequence[str] | None, sets: Sequence[str]) -> PretrainPlan:
        if named or domain:
            return plan_of_recipe(named, losses=losses, sets=sets, domain=domain, **how)
        return plan_of(losses=losses, sets=sets, **how)

    method, of_method = options.method, f"{OF_LOSSES}{options.method}."
    if method == "ctp":
        losses = losses or ["ctp"]
    elif method in WITH_TEACHER:
        asked_for = parse_losses(losses or ())
        weight = asked_for.pop(method, 1.0)
        beside = [f"{loss}={each!r}" for loss, each in asked_for.items()]
        plain = plan(beside or None, [text for text in others if not text.startswith(of_method)])
        losses = [f"{loss}={each!r}" for loss, each in {method: weight, **plain.losses}.items()]
    made = plan(losses, others)
    if method == "ctp" and "ctp" not in made.losses:
        raise ConfigError(f"--loss {', '.join(made.losses)}: --continual ctp has a contrast of its own; omit --loss")
    if method in ("ctp", *WITH_TEACHER) and made.teachers:
        raise ConfigError(f"--teacher: --continual {method} learns from the towers before each set; omit it")
    return ContinualPlan(made, tuple(then), options)


def _rewarmed(settings: Mapping[str, Any], sets: Iterable[str]) -> dict[str, Any]:
    """Settings of continued training, where they are not given; none of another schedule."""
    asked = {**{key: value for key, value in settings.items() if value is not None}, **_parsed(sets)[0]}
    if asked.get("schedule", BY_STEP[0]) not in BY_STEP:
        return {}
    peak = TrainingSettings(lr=asked["lr"]).lr if "lr" in asked else TrainingSettings.lr
    defaults = {"schedule": "rewarm", "warmup": 0.01, "end_lr": peak / 10}
    return {name: value for name, value in defaults.items() if name not in asked}


def _parsed(sets: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys with their values, and apart from them "NAME.OPTION" of losses."""
    values = dict(parse_set(text, SET_EXAMPLE) for text in sets)
    of_losses = {key: value for key, value in values.items() if key.startswith(OF_LOSSES) and key != OF_LOSSES}
    rest = {key: value for key, value in values.items() if key not in of_losses}
    return rest, {key.removeprefix(OF_LOSSES): value for key, value in of_losses.items()}


def _of_losses(
    weights: Mapping[str, float], of_recipe: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Loss -> its options, checked; those of `asked`, "NAME.OPTION", win."""
    options = {name: dict(values) for name, values in of_recipe.items()}
    for key, value in asked.items():
        name, _, option = key.rpartition(".")
        options.setdefault(name, {})[option] = value
    for name in options:
        if name not in weights:
            raise ConfigError(f"--set loss.{name}: '{name}' is not one of the losses ({', '.join(weights)})")
    classes = {name: loss_class(name) for name in weights}
    return {name: chosen(classes[name], values, f"loss '{name}'") for name, values in options.items()}
