"""What a fit of a config leaves behind: the run's files, its report, and what `fit` returns."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from rich.table import Table
from safetensors.torch import save_file
from torch import nn

from ...contracts.adapter import FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import SPLITS, DomainData, Evaluation
from ...contracts.evaluated import Evaluated
from ...contracts.fitted_run import FittedRun
from ...contracts.recipe import Recipe
from ...contracts.run_info import BeforeAfter, RunInfo
from ...contracts.task import FitResult, Task
from ...runs import run_sections as shared
from ...runs.evaluations import digests_of, kept_digests, make_folder
from ...runs.folder import Run, now, versions
from ...runs.redaction import Redaction
from ...runs.run_sections import Report, write_report
from ...runs.sections import CurveSection, HeadlineSection, Number, TableSection, is_share, number, plural
from ...training.log import keep_logs
from ..methods import place_of_data, split_counts
from .kept_plan import kept_of

FEW_OBJECTS = 30
LISTED = 6
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
    folder: Path | None = None,
) -> FitResult:
    """Write the run of a trained model.

    Args:
        history: a row for some of the steps.
        started: `time.monotonic()` at the start of the fit.
        folder: of the training's log.
    """
    metrics = metrics_of(scores, data)
    notes = [*data.notes, *scores.notes]
    with Run.create(recipe.out, recipe.domain, ADAPTER) as run:
        info = _info(recipe, task.name, data, notes, backbone, plan, time.monotonic() - started)
        sections = scores.sections
        if recipe.redact:
            redaction = Redaction.of(data)
            info, sections = redaction.info(info), redaction.sections(sections)
        save_file(_weights(model), str(run.adapter_path))
        keep_logs(folder, run.path)
        run.write(info, metrics)
        lines = [
            f"{recipe.domain} {task.name}",
            *(f"note: {note}" for note in info.notes),
            f"adapted: {scores.metrics}",
        ]
        run.log("\n".join(lines))
        shown = ConfigScores.from_json(run.metrics)
        write_report(run.path, config_training_report(run.path, run.info, shown, sections, history))
    keys = ("domain", "task", "adapter", "shots", "seed", "seconds")
    summary = {"run": str(run.path), **{key: info[key] for key in keys}, "backbone": backbone.spec, **run.metrics}
    return FitResult(
        run.path, None, _report(plan), run.metrics, summary, list(info.notes), list(map(tuple, info.skipped))
    )


def metrics_of(scores: Evaluation, data: DomainData) -> dict[str, Any]:
    """In the shape of metrics.json."""
    metrics = {"zero_shot": None, "adapted": scores.metrics, "test_images": len(data.split("test"))}
    if scores.intervals:
        metrics["metric_intervals"] = {"adapted": {name: list(of) for name, of in scores.intervals.items()}}
    groups = {} if scores.groups is None else {"test_groups": scores.groups}
    return {**metrics, **groups, **({"objects": dict(scores.objects)} if scores.objects else {})}


def write_evaluation(
    folder: Path, run: FittedRun, data: DomainData, result: Evaluated, scores: Evaluation, redact: bool = False
) -> None:
    """The report of an evaluation in a folder of its own.

    Args:
        redact: write numbers for names, and no pictures.

    Raises:
        DataError: nothing can be written there.
    """
    make_folder(folder)
    facts = {**run.info.data, "name": data.name, "kind": data.kind, "licence": data.licence}
    facts["counts"], skipped = split_counts(data), [list(pair) for pair in data.skipped]
    info = run.info.with_(created=now(), data=facts, notes=scores.notes, skipped=skipped)
    sections = scores.sections
    if redact:
        hidden = Redaction.of(data, data.skipped)
        info, sections = hidden.info(info), hidden.sections(sections)
    metrics = ConfigScores.from_json(result.metrics)
    report = config_training_report(run.shown, info, metrics, sections, ())
    place = f"Evaluation of the run {run.shown}, which is unchanged; the numbers are in metrics.json beside this page."
    lead = f"{result.words} The scores are of {plural(metrics.test_images, 'image')}."
    write_report(folder, replace(report, kind="Report of one evaluation", lead=lead, place=place))


@dataclass(frozen=True, eq=False)
class ConfigScores(BeforeAfter):
    """What metrics.json says of a model that a domain scores; nothing was scored before.

    Attributes:
        objects: class name -> objects of it in the test images, where they are counted.
    """

    objects: Mapping[str, int] = field(default_factory=dict)

    def interval_text(self, name: str) -> str:
        """Such as "31.2% to 40.5%"; "" where there is none."""
        return " to ".join(number(bound, is_share(name)) for bound in self.interval("adapted", name) or ())


def small_test_words(metrics: ConfigScores, notes: Sequence[str]) -> list[str]:
    """How little a small test set says."""
    images = metrics.test_images
    sentences = [*shared.small_test_set(images, notes), *shared.few_groups(metrics.test_groups, images)]
    few = sorted((count, name) for name, count in metrics.objects.items() if 0 < count < FEW_OBJECTS)
    if few:
        listed = ", ".join(f"{name} ({count})" for count, name in few[:LISTED])
        more = f" and {len(few) - LISTED} more" if len(few) > LISTED else ""
        sentences.append(f"Fewer than {FEW_OBJECTS} objects in the test images: {listed}{more}. Their AP says little.")
    return sentences


def _weights(model: nn.Module | None) -> Mapping[str, torch.Tensor]:
    """The state of a model; tensors that share memory get their own."""
    if model is None:
        return {}
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def _info(
    recipe: Recipe, task: str, data: DomainData, notes: list[str], backbone: Backbone, plan, seconds: float
) -> RunInfo:
    told = {
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
        "digests": kept_digests({split: data.split(split) for split in _taught_by(plan)}, digests_of),
        "skipped": [list(pair) for pair in data.skipped],
        "notes": notes,
        "seconds": round(seconds, 3),
        "versions": versions(),
        "recipe": recipe.to_dict(),
    }
    return RunInfo.from_json(told)


def _taught_by(plan: Config | None) -> tuple[str, ...]:
    """Splits that a training saw."""
    return ("train", "val") if plan is not None and plan.get("train_cfg") else ()


def _report(plan: Config | None) -> FitReport:
    return FitReport(ADAPTER, chosen_on="the config" if _taught_by(plan) else "nothing to train")


def with_arrow(name: str) -> str:
    """The name of a score with an arrow that says which way is better, where that is known."""
    return f"{name.replace('_', ' ')}{' ↑' if is_share(name) else ''}"


def config_training_report(
    folder: str | Path,
    info: RunInfo,
    metrics: ConfigScores,
    sections: Sequence[Any],
    history: Sequence[Mapping[str, float]],
) -> Report:
    """The report of a run in a folder.

    Args:
        info: as in run.json.
        sections: of the task's own, see `core/runs/sections.py`.
        history: a row per shown step of the training, "step" and values by name; may be empty.
    """
    scores = [(with_arrow(name), number(value, is_share(name))) for name, value in metrics.adapted.items()]
    names = [name.replace("_", " ") for name in metrics.adapted]
    numbers = [Number(name, text, main=place == 0) for place, (name, (_, text)) in enumerate(zip(names[:3], scores))]
    between, groups = metrics.metric_intervals, metrics.test_groups
    texts = map(metrics.interval_text, metrics.adapted)
    rows = [[*row, text] if between else row for row, text in zip(scores, texts)]
    drawn = f"{plural(groups, 'group')} of images" if groups else "the test images"
    note = f"Intervals are from a bootstrap of {drawn}." if between else ""
    return Report(
        kind="Report of one adaptation run",
        title=f"{info.data.name or 'data'}: {info.task}",
        lead=f"On {plural(metrics.test_images, 'test image')} that took no part in the training.",
        created=info.created,
        sections=[
            HeadlineSection(numbers),
            shared.warnings(small_test_words(metrics, info.notes)),
            shared.notes(info),
            TableSection("All scores", ("Score", "Value", *(("95% interval",) if between else ())), rows, note),
            *sections,
            _course(history),
            _facts(info),
            shared.skipped(info.skipped, "sample"),
            shared.use(_steps(shlex.quote(str(folder)))),
            shared.licences(info),
        ],
        versions=info.versions,
        place=f"Run folder {folder}. The whole recipe, the split and the seed are in its run.json.",
    )


def _course(history: Sequence[Mapping[str, float]]) -> CurveSection | None:
    """The loss over the steps."""
    if len(history) < 2:
        return None
    losses = ([row["step"] for row in history], [row["loss"] for row in history])
    return CurveSection("How the training went", {"loss": losses}, "step", "loss", unit=False)


def _facts(info: RunInfo):
    counted = ", ".join(f"{len(ids)} {split}" for split, ids in info.splits.items() if ids)
    of_task = {
        "Classes": [len(info.class_names), ", ".join(info.class_names)],
        "Images": [counted, info.shots and f"up to {info.shots} examples per class in training"],
        "Model": [((info.plan or {}).get("model") or {}).get("type")],
        "Backbone": shared.backbone_lines(info.backbone),
    }
    return shared.facts("What was trained, and on what", info, of_task)


def _steps(folder: str) -> list[tuple[str, str]]:
    predict = f"vladapt predict {folder} new_images/"
    return [
        ("Draw what it finds in new images, and write it as files:", f"{predict} --out found/"),
        ("Look for other things, by their names:", f'{predict} --classes "a, b, c" --out found/'),
        ("Score it again, on its own test images or on others (--data):", f"vladapt eval {folder}"),
    ]


def scores_table(metrics: Mapping[str, Any]) -> Table:
    """Scores that have nothing to be compared with."""
    read = ConfigScores.from_json(metrics)
    images, groups, between = read.test_images, read.test_groups, read.metric_intervals
    of_groups = f" of {groups} group{'s' * (groups != 1)}" if groups else ""
    table = Table(title=f"{images} test image{'s' * (images != 1)}{of_groups}", title_justify="left")
    table.add_column("")
    for column in ("score", *(("95% interval",) if between else ())):
        table.add_column(column, justify="right")
    for key, value in read.adapted.items():
        shown = "–" if value is None else f"{value:.1%}" if is_share(key) else f"{value:.4g}"
        table.add_row(with_arrow(key), shown, *([read.interval_text(key)] if between else []))
    return table
