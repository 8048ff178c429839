"""What a fit of a config leaves behind: the run's files, its report, and what `fit` returns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from mmengine import Config
from safetensors.torch import save_file
from torch import nn

from ...contracts.adapter import FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import SPLITS, DomainData, Evaluation
from ...contracts.recipe import Recipe
from ...contracts.task import FitResult, Task
from ...runs.folder import Run
from ...runs.report import write_report
from ...runtime.versions import now, versions
from ..reading import place_of_data, split_counts
from .report import config_training_report
from .runner import kept_of

ADAPTER = "own"
"""What run.json has as the adapter of a run that fitted none."""


def written_run(
    task: Task,
    recipe: Recipe,
    data: DomainData,
    backbone: Backbone,
    plan: Config | None,
    model: nn.Module | None,
    history: list[dict[str, float]],
    scores: Evaluation,
    started: float,
) -> FitResult:
    """Write the run of a trained model.

    Args:
        history: a row for some of the steps.
        started: `time.monotonic()` at the start of the fit.
    """
    metrics = {"zero_shot": None, "adapted": scores.metrics, "test_images": len(data.split("test"))}
    notes = [*data.notes, *scores.notes]
    with Run.create(recipe.out, recipe.domain, ADAPTER) as run:
        info = _info(recipe, task.name, data, notes, backbone, plan, time.monotonic() - started)
        save_file(_weights(model), str(run.adapter_path))
        run.write(info, metrics)
        lines = [f"{recipe.domain} {task.name}", *(f"note: {note}" for note in notes), f"adapted: {scores.metrics}"]
        run.log("\n".join(lines))
        write_report(run.path, config_training_report(run.path, run.info, run.metrics, scores.sections, history))
    keys = ("domain", "task", "adapter", "shots", "seed", "seconds")
    summary = {"run": str(run.path), **{key: info[key] for key in keys}, "backbone": backbone.spec, **run.metrics}
    return FitResult(run.path, None, _report(plan), run.metrics, summary, notes, list(data.skipped))


def _weights(model: nn.Module | None) -> Mapping[str, torch.Tensor]:
    """The state of a model; tensors that share memory get their own."""
    if model is None:
        return {}
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def _info(
    recipe: Recipe, task: str, data: DomainData, notes: list[str], backbone: Backbone, plan, seconds: float
) -> dict[str, Any]:
    return {
        "created": now(),
        "domain": recipe.domain,
        "task": task,
        "adapter": ADAPTER,
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
        "splits": {split: [item.id for item in data.split(split)] for split in SPLITS},
        "skipped": [list(pair) for pair in data.skipped],
        "notes": notes,
        "seconds": round(seconds, 3),
        "versions": versions(),
        "recipe": recipe.to_dict(),
    }


def _report(plan: Config | None) -> FitReport:
    trained = plan is not None and bool(plan.get("train_cfg"))
    return FitReport(ADAPTER, chosen_on="the config" if trained else "nothing to train")
