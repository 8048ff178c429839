"""The plan of a training that starts from a model of transformers: its model, its preprocessing, its rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ....core.errors import ConfigError, did_you_mean
from ..plans.pipelines import nodes
from ..vocabulary import alike
from .family import HEAD, MAP, MASKS, TEXTS, Rates, family_of
from .source import RUN, HubModel, hub_model, is_hub_node, is_hub_place

RECIPES = {"segmentation": "hf-segmentor", "detection": "hf-detector"}
PREPARE = ("ProcessorResize", "ProcessorCrop")
TEXT_MODELS = {"segmentation": "vladapt.HFTextSegmentor", "detection": "vladapt.HFTextDetector"}
PRETRAINED = "pretrained"
AVERAGE = "vladapt.AveragedOnce"
AVERAGED_SOON = 2000
"""Steps after which averaged weights change as slowly as they are to."""


def source_at(place: Any) -> HubModel | None:
    """The model of transformers that a start names; None of any other start."""
    is_one = place and (is_hub_place(place) or (Path(str(place)) / RUN).is_file())
    return hub_model(str(place)) if is_one else None


def task_of_source(source: HubModel) -> str:
    """Name of the task whose models a type's are; of a type that gives objects and maps, maps where its name or its
    preprocessing says so."""
    family, called = source.family_class, (source.repository or source.folder.name).lower()
    semantic = "semantic" in called or source.processor.get("do_split_image")
    return "segmentation" if family.gives == MAP or (family.gives_maps and semantic) else "detection"


def recipe_for(source: HubModel, task: str) -> str:
    """The packaged recipe of a source.

    Raises:
        ConfigError: the type is not one of the task.
    """
    family = source.family_class
    fitting = family.gives == MAP or family.gives_maps if task == "segmentation" else family.gives != MAP
    if not fitting:
        other = task_of_source(source)
        raise ConfigError(f"--start {source.place}: {source.model_type} is of another task; give --task {other}")
    return source.family_class.recipe or RECIPES[task]


def note_on_start(source: HubModel, names: Sequence[str]) -> str:
    """Where a training began, under which licence, and which of its names a closed head knew."""
    began = f"Started from {source.repository or source.folder.name} ({source.model_type}, licence {source.licence})"
    if source.family_class.asked_by != HEAD:
        return f"{began}."
    before = {alike(name) for name in source.known_names}
    new = [name for name in names if alike(name) not in before]
    growth = f"rows of {len(new)} are new, among them {new[0]}" if new else "no row is new"
    return f"{began}: of {len(names)} names its head knew {len(names) - len(new)}; {growth}."


SIZES = frozenset({"size", "crop_size", "pad_size"})
"""Of a processor: one that is given stands in place of the source's, whose keys may be others."""


def on_source(base: Mapping[str, Any], source: HubModel, trains: bool = True) -> dict[str, Any]:
    """A config with the model of a source, its preprocessing, and the rates of its type where it has none.

    Args:
        trains: False leaves the training out.

    Raises:
        ConfigError: the config trains another model.
    """
    config = deepcopy(dict(base))
    kind = str(config["model"].get("type", ""))
    if not is_hub_node(config["model"]):
        raise ConfigError(
            f"--start {source.place}: a model of transformers, but the config trains a {kind.rpartition('.')[2]}; omit "
            "--recipe and --config"
        )
    if not trains:
        config.pop("train_cfg", None)
    changes = dict(config["model"])
    given = changes.get("processor") or {}
    model = {"config": source.config, "processor": source.processor}
    config["model"] = {**_merged(model, changes), PRETRAINED: str(source.folder)}
    config["model"]["processor"] |= {name: given[name] for name in SIZES & given.keys()}
    if source.family_class.asked_by == TEXTS and not source.family_class.recipe:
        config["model"]["type"] = TEXT_MODELS[task_of_source(source)]
    elif source.known_names:
        config["model"]["classes"] = list(source.known_names)
    for node in nodes(config):
        if str(node.get("type", "")).endswith(PREPARE):
            node["processor"] = config["model"]["processor"]
    family = source.family_class
    of_config = family_of(config["model"]["config"], len(source.known_names), source.place)
    for node in nodes(config):
        if str(node.get("type", "")).endswith("LoadAnnotations") and of_config.gives == MASKS:
            node["with_mask"] = True
    if trains and family.why_not:
        raise ConfigError(
            f"--start {source.place}: {source.model_type} is not trained here ({family.why_not}); use it as it is: "
            "--epochs 0"
        )
    if config.get("train_cfg"):
        schedule = _schedule(of_config.rates)
        schedule["custom_hooks"] += map(dict, of_config.hooks)
        own = config.get("optim_wrapper") or {}
        whole = "type" in (own.get("optimizer") or {})
        config["optim_wrapper"] = own if whole else _merged(schedule.pop("optim_wrapper"), own)
        config.setdefault("param_scheduler", schedule["param_scheduler"])
        config["custom_hooks"] = [*(config.get("custom_hooks") or ()), *schedule["custom_hooks"]]
    config.setdefault("vladapt", {})["source"] = source.facts()
    return config


def check_names_of(source: HubModel, names: Sequence[str]) -> None:
    """Refuse names that a closed head lacks, where it is not trained.

    Raises:
        ConfigError: one line.
    """
    known = {alike(name) for name in source.known_names}
    if source.family_class.asked_by == HEAD and (unknown := [name for name in names if alike(name) not in known]):
        nearest = did_you_mean(unknown[0], source.known_names)
        raise ConfigError(
            f"--epochs 0: {source.place} does not know '{unknown[0]}', and nothing is trained; {nearest}, by --classes"
        )


def _schedule(rates: Rates) -> dict[str, Any]:
    """mmengine's parts of the rates; the warm-up is the first epoch, however many steps the authors took."""
    parts = {name: dict(of) for name, of in rates.parts.items()}
    return {
        "optim_wrapper": {
            "type": "OptimWrapper",
            "constructor": "vladapt.PartRatesOptimWrapperConstructor",
            "optimizer": {
                "type": "AdamW",
                "lr": rates.lr,
                "weight_decay": rates.weight_decay,
                "betas": tuple(rates.betas),
            },
            "clip_grad": None if rates.clip is None else {"max_norm": rates.clip},
            "paramwise_cfg": {
                "custom_keys": parts,
                "norm_decay_mult": rates.norm_decay,
                "bias_decay_mult": rates.bias_decay,
                "bypass_duplicate": True,
            },
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": 1, "convert_to_iter_based": True}
        ],
        "custom_hooks": [] if rates.ema is None else [_average(rates.ema)],
    }


def _average(decay: float) -> dict[str, Any]:
    return {
        "type": "EMAHook",
        "ema_type": AVERAGE,
        "momentum": 1 - decay,
        "gamma": AVERAGED_SOON,
        "update_buffers": True,
        "priority": 49,
    }


def _merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the changes put in, inside inner dicts too."""
    merged = {**value, **changes}
    for key, inner in changes.items():
        if isinstance(inner, Mapping) and isinstance(value.get(key), Mapping):
            merged[key] = _merged(value[key], inner)
    return merged
