"""What a detector's training goes on from: a run, or a checkpoint of the config's model, and the names it knows."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import nn

from ....core.errors import CapabilityError, ConfigError, DataError, did_you_mean
from ....core.runs import Run
from ....core.tasks import KeptModel, build_model, quiet_mm
from ..hub_models.family import family_class
from ..hub_models.prompted import PROMPTS
from ..hub_models.source import HubModel, is_hub_node, is_hub_place
from ..hub_models.starting import PRETRAINED, source_at
from ..plans.classes import takes_names, with_classes
from ..plans.kinds import DETECTION
from ..plans.pipelines import testing_pipeline
from ..vocabulary import alike

CHECKPOINTS = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Args:
        place: as it was given.
        weights: the file of them, or the folder of a model of transformers.
        run: None for a checkpoint, whose model is the config's.
        source: the model of transformers that it is, or None.
    """

    place: str
    weights: Path
    run: Run | None = None
    source: HubModel | None = None

    def names(self) -> tuple[str, ...] | None:
        """That its detector was trained on, or tested with; None where nothing tells them."""
        if self.source is not None:
            return self.source.known_names or None
        if self.run is None:
            meta = (_read(self.weights).get("meta") or {}).get("dataset_meta") or {}
            classes = meta.get("classes", meta.get("CLASSES"))
            return tuple(map(str, classes)) if classes else None
        kept = self.run.info.plan["vladapt"]
        return (*kept.get("classes", ()), *kept.get("novel", ()))


def start_at(place: str | Path, option: str = "--start") -> Start:
    """The start at a run folder or a checkpoint.

    Args:
        option: for messages.

    Raises:
        DataError: no run and no checkpoint there, or one that is not to be trusted. ConfigError: a run that trained no
            detector.
    """
    if (source := source_at(place)) is not None:
        return Start(str(place), source.folder, source=source)
    path = Path(place)
    if path.is_file() and path.suffix in CHECKPOINTS:
        return Start(str(place), path)
    if not path.is_dir() and not is_hub_place(place):
        raise DataError(f"{option} {place}: neither a run folder nor a checkpoint ({', '.join(CHECKPOINTS)}); give one")
    run = Run.open(place)
    plan = KeptModel(run).plan()
    if run.info.task != DETECTION.task or not (plan or {}).get("vladapt"):
        raise ConfigError(f"{option} {place}: a run of {run.info.task} without a detector; give a run of detection")
    return Start(str(place), run.adapter_path, run)


def on_start(
    config: Mapping[str, Any], start: Start, changes: Mapping[str, Any], backbone: str | None
) -> dict[str, Any]:
    """The config with the model of a start, and its weights.

    Args:
        config: of a model of the same type.
        changes: dotted name inside the start's model -> value that it gets.
        backbone: that was given, or None.

    Raises:
        ConfigError: the start is a run whose model is of another type, or a backbone is given.
    """
    if start.run is None and start.source is None:
        return {**config, "load_from": str(start.weights)}
    if backbone is not None:
        raise ConfigError(f"--backbone {backbone}: with --start the model is the run's own; omit it")
    if start.source is not None:
        return dict(config)
    model = KeptModel(start.run).plan()["model"]
    kind, other = (str(each.get("type")).rpartition(".")[2] for each in (model, config["model"]))
    if kind != other:
        raise ConfigError(
            f"--start {start.place}: its model is a {kind}, but the config trains a {other}; give the recipe by "
            "which the run was trained, with --recipe or --config"
        )
    for name in sorted(changes):
        _set(model, name.split("."), changes[name])
    return {**config, "model": model, "load_from": str(start.weights)}


def check_known(names: Sequence[str], start: Start, model: Mapping[str, Any]) -> None:
    """Refuse to remember what was never there.

    Args:
        names: to remember.
        model: of the config with the start's model in it.

    Raises:
        ConfigError: a name that the start was not trained on. CapabilityError: its classes are no texts, or none.
    """
    if is_hub_node(model) and family_class(model["config"]["model_type"], start.place).asked_by == PROMPTS:
        raise CapabilityError(
            f"--remember: the model of {start.place} outlines what it is shown and knows no names; omit it"
        )
    if not takes_names(dict(model)) and not is_hub_node(model):
        raise CapabilityError(
            f"--remember: the classes of the model of {start.place} are fixed, so none can be added; train one with a "
            "text classifier first (docs/open-vocab.md)"
        )
    if (known := start.names()) is None:
        return
    spellings = {alike(name) for name in known}
    if unknown := [name for name in names if alike(name) not in spellings]:
        nearest = did_you_mean(unknown[0], known)
        raise ConfigError(f"--remember: the detector of {start.place} never knew '{unknown[0]}'; {nearest}")


def detector_before(
    start: Start, config: Mapping[str, Any], names: Sequence[str], described: Mapping[str, Any], device: torch.device
) -> nn.Module:
    """The detector as it is before the training, frozen, with the names that it knows.

    Args:
        config: with the start's model (`on_start`).
        names: that it is asked for where nothing tells those that it knows.
        described: what is said of them.

    Raises:
        DataError: the weights are not those of the model.
    """
    if start.source is not None:
        model = _from_source(start.source, config, names, described, device)
    elif start.run is not None:
        model = KeptModel(start.run).load(device)
    else:
        model = _from_checkpoint(start, config, list(start.names() or names), described, device)
    return model.requires_grad_(False).eval()


def _from_source(
    source: HubModel,
    config: Mapping[str, Any],
    asked: Sequence[str],
    described: Mapping[str, Any],
    device: torch.device,
) -> nn.Module:
    names = list(source.known_names or asked)
    model = {**deepcopy(dict(config["model"])), PRETRAINED: str(source.folder)}
    with_classes(model, names, {name: described.get(name, {}) for name in names} if described else None)
    pipeline = testing_pipeline(dict(config), DETECTION)
    kept = {"classes": names, "novel": [], "described": dict(described), "test_pipeline": pipeline, "notes": []}
    scope = config.get("default_scope", DETECTION.scope)
    return build_model({"default_scope": scope, "model": model, "vladapt": kept}, device)


def _from_checkpoint(
    start: Start, config: Mapping[str, Any], names: list[str], described: Mapping[str, Any], device: torch.device
) -> nn.Module:
    model = deepcopy(dict(config["model"]))
    with_classes(model, names, {name: described.get(name, {}) for name in names} if described else None)
    pipeline = testing_pipeline(dict(config), DETECTION)
    kept = {"classes": names, "novel": [], "described": dict(described), "test_pipeline": pipeline, "notes": []}
    scope = config.get("default_scope", DETECTION.scope)
    built = build_model({"default_scope": scope, "model": model, "vladapt": kept}, device)
    weights = _read(start.weights)["state_dict"]
    if not set(weights) & set(built.state_dict()):
        raise DataError(f"{start.weights}: none of its weights is of the config's model; give the config it belongs to")
    with quiet_mm():
        load_state_dict(built, weights, strict=False)
    return built


def _read(path: Path) -> dict[str, Any]:
    try:
        content = CheckpointLoader.load_checkpoint(str(path), map_location="cpu", logger="silent")
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(".")
        raise DataError(f"{path}: cannot be read as a checkpoint ({reason}); give another to start from") from error
    return content if "state_dict" in content else {"state_dict": content}


def _set(value: Any, path: Sequence[str], new: Any) -> None:
    *outer, last = path
    for part in outer:
        value = value[int(part)] if isinstance(value, list) else value.setdefault(part, {})
    value[int(last) if isinstance(value, list) else last] = new
