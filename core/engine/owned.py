"""Tasks that a domain owns whole: its plan is trained by mmengine's Runner, its own metrics go into the run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from safetensors.torch import load_file, save_file
from torch import nn

from ..backbones.load import load_backbone
from ..contracts.adapter import FitReport
from ..contracts.domain import Domain, DomainData
from ..contracts.errors import ConfigError, DataError
from ..data.identity import FileHashes
from ..data.splits import assign_splits
from ..data.verify import drop_unreadable
from ..runs.folder import Run
from .prepare import read_data, split_counts
from .progress import Reporter
from .recipe import as_data
from .versions import now, versions


def fit_owned(recipe: Config, domain: Domain, task: str, reporter: Reporter) -> dict[str, Any]:
    """Train and score a task by the domain's own plan.

    Returns:
        {"run": Path, "metrics": {...}, "summary": the `--json` object, "notes", "skipped", "report"}.
        `zero_shot` is None.

    Raises:
        ConfigError: the plan is no mmengine config, or its model is no plain dict.
    """
    started = time.monotonic()
    data = read_data(recipe, domain, task)
    hashes = FileHashes()
    with reporter.task("Checking samples", unit="samples") as progress:
        data = drop_unreadable(data, hashes, workers=recipe.workers, progress=progress)
    data = assign_splits(data, seed=recipe.split_seed, hashes=hashes)
    backbone = load_backbone(recipe.backbone, device=recipe.device, image_size=recipe.image_size)
    plan = domain.plan(task, recipe, data, backbone)
    with Run.create(recipe.out, recipe.domain, "own") as run:
        model = None if plan is None else train_plan(plan, run.path, recipe.seed)
        scores = domain.evaluate(task, model, data, backbone)
        metrics = {"zero_shot": None, "adapted": scores, "test_images": len(data.split("test"))}
        info = _info(recipe, domain, task, data, backbone, plan, time.monotonic() - started)
        weights = {} if model is None else model.state_dict()
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, str(run.adapter_path))
        run.write(info, metrics)
        run.log("\n".join([f"{domain.name} {task}", *[f"note: {note}" for note in data.notes], f"adapted: {scores}"]))
    keys = ("domain", "task", "adapter", "shots", "seed", "seconds")
    summary = {
        "run": str(run.path),
        **{key: info[key] for key in keys},
        "backbone": backbone.spec,
        **metrics,
    }
    said = {"notes": list(data.notes), "skipped": list(data.skipped), "report": _report(plan)}
    return {"run": run.path, "metrics": metrics, "summary": summary, **said}


def train_plan(plan: Config, work_dir: Path, seed: int) -> nn.Module:
    """Run a plan with mmengine's Runner; returns the trained model in eval mode."""
    from mmengine.runner import Runner

    check_plan(plan)
    plan = Config(plan.to_dict())
    plan.setdefault("work_dir", str(work_dir / "work"))
    plan.setdefault("default_scope", "vladapt")
    plan.setdefault("randomness", {"seed": seed, "deterministic": True})
    plan.setdefault("log_level", "WARNING")
    with _restored_determinism():
        runner = Runner.from_cfg(plan)
        runner.train()
    return runner.model.eval()


@contextmanager
def _restored_determinism() -> Iterator[None]:
    """mmengine asks all of torch for deterministic kernels; what comes after the training (torchmetrics' counting
    among it, which then takes memory without bound) must not inherit that."""
    cudnn, enabled = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    kept = cudnn.deterministic, cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled)
        cudnn.deterministic, cudnn.benchmark = kept


def check_plan(plan: Config) -> None:
    """Raise ConfigError unless the plan is a Config whose model is a plain dict."""
    if not isinstance(plan, Config) or not isinstance(plan.get("model"), dict):
        raise ConfigError("a domain's plan must be an mmengine Config with `model` as a dict")
    try:
        json.dumps(plan.model.to_dict())
    except TypeError:
        raise ConfigError("the plan's `model` must be plain data (it is kept in run.json)") from None


def load_owned(run: Run, device: torch.device) -> nn.Module | None:
    """The trained model of a run, built from the registries; None where nothing was trained.

    Raises:
        DataError: the weights are missing or do not fit the model.
    """
    plan = run.info.get("plan")
    if plan is None:
        return None
    from mmengine.registry import init_default_scope

    from ...registry import MODELS

    init_default_scope("vladapt")
    model = MODELS.build(dict(plan))
    path = run.adapter_path
    try:
        model.load_state_dict(load_file(str(path)))
    except Exception as error:
        raise DataError(f"{path}: does not fit the run's model ({str(error).splitlines()[0]}); fit again") from error
    return model.to(device).eval()


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
            "path": str(recipe.data.path),
            "kind": data.kind,
            "licence": data.licence,
            "counts": split_counts(data),
        },
        "class_names": list(data.class_names),
        "plan": None if plan is None else plan.model.to_dict(),
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
    return FitReport("own", chosen_on="the domain's own plan" if plan is not None else "nothing to train")
