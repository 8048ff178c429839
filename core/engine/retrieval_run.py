"""Runs of `--task retrieval`: written by `fit`, scored again by `eval`, compared by `compare`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine import Config

from ..backbones.fine_tuned import save_fine_tuned
from ..backbones.load import load_backbone
from ..contracts.domain import Domain
from ..contracts.errors import DataError, VladaptError
from ..registry import load_adapter, load_domain
from ..runs.folder import RUNS, Run
from ..runs.report import write_report
from ..tasks.pretraining.report import training_report
from ..training.distributed import is_main
from ..training.objective import parse_losses
from .fit_retrieval import (
    DECIDES,
    TASK,
    FittedRetrieval,
    RetrievalData,
    check_retrieval,
    fitted_retrieval,
    read_retrieval,
    scored,
    train_on_pairs,
)
from .progress import Reporter
from .recipe import as_data
from .resume import checkpoints_of
from .retrieval import before_and_after
from .retrieval_tables import retrieval_verdict
from .versions import now, versions


def fit_on_pairs(recipe: Config, domain: Domain | None, reporter: Reporter) -> dict[str, Any] | None:
    """Train, score and write a run; its folder is a `--backbone` where towers changed.

    Returns:
        What a FitResult holds, by name; None on all ranks but the first.
    """
    check_retrieval(recipe)
    data = read_retrieval(recipe, domain)
    with checkpoints_of(Path(recipe.out or RUNS), _key(recipe, data), recipe.resume, reporter) as folder:
        done = fitted_retrieval(recipe, data, reporter, folder)
        if not is_main():
            return None
        info = _info(recipe, data, done)
        with Run.create(recipe.out, recipe.domain or TASK, recipe.adapter.name) as run:
            _write(run, info, done)
    summary = {
        "run": str(run.path),
        **{key: info[key] for key in ("domain", "task", "adapter", "seed")},
        "backbone": info["backbone"]["spec"],
        "shots": len(data.part("train")),
        **done.metrics,
        "seconds": info["seconds"],
    }
    return {
        "run": run.path,
        "adapter": done.adapter,
        "report": done.report,
        "metrics": done.metrics,
        "summary": summary,
        "notes": info["notes"],
        "skipped": [tuple(pair) for pair in info["skipped"]],
        "encoded": 0,
        "from_store": 0,
    }


def evaluate_pairs(run: Run, recipe: Config, split: str, reporter: Reporter) -> dict[str, Any]:
    """A run's towers and its backbone, on a split of its own pairs or of others."""
    domain = load_domain(recipe.domain) if recipe.domain else None
    data = read_retrieval(recipe, domain)
    backbone = load_backbone(recipe.backbone, device=recipe.device, image_size=recipe.image_size)
    towers = load_adapter(run.adapter_path, backbone).adapted(backbone)
    scores = [scored(each, data, split, recipe, reporter) for each in (backbone, towers)]
    return {"run": str(run.path), "data": data.name, "split": split, **before_and_after(*scores)}


def compare_on_pairs(
    recipe: Config, names: Sequence[str], seeds: Sequence[int], reporter: Reporter
) -> tuple[list[dict[str, Any]], dict[str, str], str, list[str]]:
    """Every adapter at every seed on one set of pairs.

    Returns:
        (rows, refused adapters with the reason, name of the data, notes). `shots` of a row is its training pairs.
    """
    domain = load_domain(recipe.domain) if recipe.domain else None
    data = read_retrieval(recipe, domain)
    backbone = load_backbone(recipe.backbone, device=recipe.device, image_size=recipe.image_size)
    rows, refused, count = [], {}, len(data.part("train"))
    with reporter.task("Comparing", unit="fits") as progress:
        for name in names:
            own = Config(recipe.to_dict())
            if own.adapter.name != name:
                own.adapter = {"name": name}
            for seed in seeds:
                started = time.perf_counter()
                try:
                    check_retrieval(own, to_fit=False)
                    _, _, towers = train_on_pairs(own, data, backbone, seed, Reporter(quiet=True), None)
                except VladaptError as error:
                    refused[name] = str(error)
                    break
                seconds = round(time.perf_counter() - started, 3)
                found = before_and_after(None, scored(towers, data, "test", own))["adapted"]
                rows.append(
                    {"adapter": name, "shots": count, "seed": seed, "accuracy": None, **found, "seconds": seconds}
                )
                progress(len(rows), len(names) * len(seeds))
    if not rows:
        raise DataError(f"no adapter could be fitted: {next(iter(refused.values()))}")
    return rows, refused, data.name, data.notes


def deciding(rows: Sequence[dict[str, Any]]) -> str | None:
    """The metric that decides, where rows are of retrieval."""
    return DECIDES if rows and DECIDES in rows[0] else None


def _write(run: Run, info: dict[str, Any], done: FittedRetrieval) -> None:
    done.adapter.save(run.adapter_path)
    model = save_fine_tuned(done.towers, run.path)
    run.write(info, done.metrics)
    run.log("\n".join([*info["notes"], info["verdict"], f"adapted: {done.metrics['adapted']}"]))
    shown = {**info, "model": str(model)}
    write_report(run.path, training_report(run.path, shown, done.metrics, done.report.history))


def _info(recipe: Config, data: RetrievalData, done: FittedRetrieval) -> dict[str, Any]:
    parts = {split: len(data.pairs.split(split)) for split in ("train", "val", "test")}
    facts = {name: getattr(done.backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
    options = done.adapter.options
    path = str(recipe.data.path)
    return {
        "created": now(),
        "domain": recipe.domain,
        "task": TASK,
        "adapter": recipe.adapter.name,
        "adapter_options": options,
        "backbone": facts,
        "data": {
            "name": data.name,
            "path": path if path == "sample" else str(Path(path).absolute()),
            "kind": "captions",
            "licence": data.licence,
            "images": sum(parts.values()),
            "texts": done.after.metrics["texts"],
            "splits": parts,
        },
        "class_names": [],
        "losses": parse_losses((options["loss"] or "clip").split(",")),
        "settings": options,
        "seed": recipe.seed,
        "fit": done.report.to_dict(),
        "verdict": retrieval_verdict(done.metrics),
        "notes": [note[0].upper() + note[1:] for note in done.notes if note],
        "skipped": [list(pair) for pair in dict.fromkeys([*data.skipped, *done.after.skipped])],
        "seconds": round(done.seconds, 3),
        "versions": versions(),
        "recipe": as_data(recipe),
    }


def _key(recipe: Config, data: RetrievalData) -> str:
    """16 hex digits that say what is trained on what."""
    stated = {name: value for name, value in as_data(recipe).items() if name not in ("resume", "out", "workers")}
    rows = data.part("train")
    parts = [sorted(map(str, stated.items())), len(rows), rows[0].id, rows[len(rows) - 1].id]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
