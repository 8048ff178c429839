"""Tasks that a domain owns whole: its plan is trained by mmengine's Runner, its own metrics go into the run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from mmengine import Config
from safetensors.torch import load_file, save_file
from torch import nn

from ..backbones.load import load_backbone
from ..contracts.adapter import FitReport
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain, DomainData, Evaluation
from ..contracts.errors import ConfigError, DataError
from ..data.identity import FileHashes
from ..data.splits import assign_splits
from ..data.verify import drop_unreadable
from ..runs.folder import Run
from ..runs.report import write_report
from ..tasks.config_training.report import config_training_report
from ..training.distributed import is_main, run_on_all
from .fit_record import place_of_data
from .owned_training import build_model, kept_of, kept_training, quiet, train_plan
from .prepare import read_data, split_counts
from .progress import Reporter
from .recipe import DEFAULTS, as_data
from .versions import now, versions

TRAINING = ("epochs", "lr")
"""Flags of adapters that every training has."""


def fit_owned(recipe: Config, domain: Domain, task: str, reporter: Reporter) -> dict[str, Any] | None:
    """Train and score a task by the domain's own plan.

    Returns:
        {"run": Path, "metrics": {...}, "summary": the `--json` object, "notes", "skipped", "report"}, on the first
        rank; `zero_shot` is None.

    Raises:
        ConfigError: the plan is no mmengine config, its model is no plain dict, or it cannot be run.
    """
    started = time.monotonic()
    refuse_unused(recipe, domain, task)
    data = domain.choose(task, recipe, divided(read_owned(recipe, domain, task), recipe, reporter))
    spec = domain.backbone_spec(task, recipe)
    backbone = load_backbone(spec, device=recipe.device, image_size=recipe.image_size)
    plan = domain.plan(task, recipe, data, backbone)
    if plan is None:
        return run_on_all(lambda: _finished(recipe, domain, task, data, backbone, None, None, [], started, reporter))
    with kept_training(recipe, plan, reporter) as folder:
        model, history = train_plan(plan, folder, recipe.seed, backbone.device, reporter, recipe.resume)
        return run_on_all(
            lambda: _finished(recipe, domain, task, data, backbone, plan, model, history, started, reporter)
        )


def refuse_unused(recipe: Config, domain: Domain, task: str) -> None:
    """Raise the ConfigError of what a recipe says to adapters, where none is fitted."""
    given = {key: value for key, value in recipe.adapter.items() if key != "name" and value is not None}
    wrong = [f"--set adapter.{key}={given[key]}" for key in given if key not in TRAINING]
    if recipe.adapter.name != DEFAULTS["adapter"]["name"]:
        wrong.insert(0, f"--adapter {recipe.adapter.name}")
    wrong += [f"--{key} {recipe[key]}" for key in ("features", "generic") if recipe[key]]
    wrong += [f"--resource {name}={value}" for name, value in recipe.resources.items()]
    if wrong:
        raise ConfigError(
            f"{wrong[0]}: domain '{domain.name}' trains {task} by its own plan and uses none; leave it out "
            "(what is trained, --recipe or --config says)"
        )


def read_owned(recipe: Config, domain: Domain, task: str) -> DomainData:
    """The data set that is given, else the one that the recipe's config names, else the domain's sample."""
    given = recipe.data.path not in (None, "sample")
    data = domain.read_plan(task, recipe) if recipe.plan and not given else None
    return read_data(recipe, domain, task) if data is None else data


def divided(data: DomainData, recipe: Config, reporter: Reporter) -> DomainData:
    """The readable samples, each with its split."""
    return assign_splits(sound(data, recipe, reporter), seed=recipe.split_seed, hashes=FileHashes())


def sound(data: DomainData, recipe: Config, reporter: Reporter) -> DomainData:
    """The readable samples.

    Raises:
        DataError: more than 5 % are not.
    """
    with reporter.task("Checking samples", unit="samples") as progress:
        return drop_unreadable(data, FileHashes(), workers=recipe.workers, progress=progress)


def _finished(recipe, domain, task, data, backbone, plan, model, history, started, reporter) -> dict[str, Any] | None:
    """Score the model and write the run, on the first rank."""
    if not is_main():
        return None
    found = evaluated(domain, task, model, data, backbone, reporter)
    metrics = {"zero_shot": None, "adapted": found.metrics, "test_images": len(data.split("test"))}
    with Run.create(recipe.out, recipe.domain, "own") as run:
        data = replace(data, notes=[*data.notes, *found.notes])
        info = _info(recipe, domain, task, data, backbone, plan, time.monotonic() - started)
        save_file(_weights(model), str(run.adapter_path))
        run.write(info, metrics)
        notes = [f"note: {note}" for note in data.notes]
        run.log("\n".join([f"{domain.name} {task}", *notes, f"adapted: {found.metrics}"]))
        write_report(
            run.path, config_training_report(run.path, run.info, run.metrics, found.sections, history)
        )
    keys = ("domain", "task", "adapter", "shots", "seed", "seconds")
    summary = {"run": str(run.path), **{key: info[key] for key in keys}, "backbone": backbone.spec, **run.metrics}
    said = {"notes": list(data.notes), "skipped": list(data.skipped), "report": _report(plan)}
    return {"run": run.path, "metrics": run.metrics, "summary": summary, **said}


def evaluated(domain: Domain, task: str, model, data: DomainData, backbone: Backbone, reporter: Reporter) -> Evaluation:
    """What the domain says of a model on the test split."""
    with reporter.task("Testing") as domain.progress, quiet():
        found = domain.evaluate(task, model, data, backbone)
    return found if isinstance(found, Evaluation) else Evaluation(dict(found))


def load_owned(run: Run, device: torch.device) -> nn.Module | None:
    """The trained model of a run, built from the registries; None where nothing was trained.

    Raises:
        DataError: the weights are missing or do not fit the model.
    """
    kept = run.info.get("plan")
    if kept is None:
        return None
    model = build_model(kept, device)
    path = run.adapter_path
    try:
        model.load_state_dict(load_file(str(path)))
    except Exception as error:
        raise DataError(f"{path}: does not fit the run's model ({str(error).splitlines()[0]}); fit again") from error
    return model.to(device).eval()


def _weights(model: nn.Module | None) -> dict[str, torch.Tensor]:
    """The state of a model; tensors that share memory get their own."""
    if model is None:
        return {}
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def _info(recipe, domain, task, data: DomainData, backbone, plan, seconds: float) -> dict[str, Any]:
    return {
        "created": now(),
        "owned": True,
        "domain": recipe.domain,
        "task": task,
        "adapter": "own",
        "backbone": {"spec": backbone.spec, "fingerprint": backbone.fingerprint, "licence": backbone.licence},
        "data": {
            "name": data.name,
            "path": place_of_data(recipe),
            "kind": data.kind,
            "licence": data.licence,
            "counts": split_counts(data),
        },
        "class_names": list(data.class_names),
        "plan": None if plan is None else kept_of(plan),
        "shots": recipe.shots,
        "seed": recipe.seed,
        "splits": {split: [item.id for item in data.split(split)] for split in ("train", "val", "test")},
        "skipped": [list(pair) for pair in data.skipped],
        "notes": list(data.notes),
        "seconds": round(seconds, 3),
        "versions": versions(),
        "recipe": as_data(recipe),
    }


def _report(plan: Config | None) -> FitReport:
    trained = plan is not None and bool(plan.get("train_cfg"))
    return FitReport("own", chosen_on="the domain's own plan" if trained else "nothing to train")
