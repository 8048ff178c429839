"""What is shown of the scores of a trained config: metrics.json, reports, tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ...contracts.domain import Evaluation
from ...contracts.items import DomainData
from ...contracts.judgement import Evaluated
from ...contracts.run_info import BeforeAfter, FittedRun, RunInfo
from ...errors import first_of
from ...recipes.asked_for import data_facts
from ...runs import run_sections as shared
from ...runs.folder import make_folder, now
from ...runs.redaction import Redaction
from ...runs.run_sections import Report, write_report
from ...runs.sections import CurveSection, HeadlineSection, Number, TableSection, is_share, number, plural

FEW_OBJECTS = 30
LISTED = 6
UNITS = {"mm": "mm", "px": "pixels"}
"""Endings of the names of distances."""
ERRORS = ("mae", "rmse")
ABBREVIATIONS = {"mae": "MAE", "rmse": "RMSE", "r2": "R2", "f1": "F1", "hd95": "HD95"}
"""First words of the names of scores, as they are written."""


def evaluation_metrics(scores: Evaluation, data: DomainData) -> dict[str, Any]:
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
    facts = {**run.info.data, **data_facts(data, run.info.data.path)}
    skipped = [list(pair) for pair in data.skipped]
    info = run.info.with_(created=now(), data=facts, notes=scores.notes, skipped=skipped)
    sections = scores.sections
    if redact:
        hidden = Redaction.of(data, data.skipped)
        info, sections = hidden.info(info), hidden.sections(sections)
    metrics = BeforeAfter.from_json(result.metrics)
    report = config_training_report(run.shown, info, metrics, sections, ())
    lead = f"{result.words} The scores are of {plural(metrics.test_images, 'image')}."
    write_report(folder, report.of_evaluation(run.shown, lead))


def small_test_words(metrics: BeforeAfter, notes: Sequence[str]) -> list[str]:
    """How little a small test set says."""
    images = metrics.test_images
    sentences = [*shared.small_test_set(images, notes), *shared.few_groups(metrics.test_groups, images)]
    few = sorted((count, name) for name, count in metrics.objects.items() if 0 < count < FEW_OBJECTS)
    if few:
        listed = first_of([f"{name} ({count})" for count, name in few], LISTED)
        sentences.append(f"Fewer than {FEW_OBJECTS} objects in the test images: {listed}. Their AP says little.")
    return sentences


def _between(metrics: BeforeAfter, name: str) -> str:
    """Such as "31.2% to 40.5%"; "" where there is no interval."""
    return " to ".join(number(bound, is_share(name)) for bound in metrics.interval("adapted", name) or ())


def with_arrow(name: str) -> str:
    """The name of a score with an arrow that says which way is better, where that is known; of a distance with its
    unit."""
    stem, _, unit = name.rpartition("_")
    if unit in UNITS:
        return f"{_in_words(stem)}, {UNITS[unit]} ↓"
    rises = is_share(name) or name.partition("_")[0] == "r2" or name.endswith("_gain")
    return f"{_in_words(name)}{' ↑' if rises else ' ↓' if is_error(name) else ''}"


def is_error(name: str) -> bool:
    """Whether a score is a distance or an error, the lower the better."""
    first, _, rest = name.partition("_")
    return name.rpartition("_")[2] in UNITS or (first in ERRORS and rest != "gain")


def _in_words(name: str) -> str:
    """ "rmse_training_mean" -> "RMSE training mean"."""
    first, *rest = name.split("_")
    return " ".join((ABBREVIATIONS.get(first, first), *rest))


def config_training_report(
    folder: str | Path,
    info: RunInfo,
    metrics: BeforeAfter,
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
    names = [_in_words(name) for name in metrics.adapted]
    numbers = [Number(name, text, main=place == 0) for place, (name, (_, text)) in enumerate(zip(names[:3], scores))]
    between, groups = metrics.metric_intervals, metrics.test_groups
    texts = [_between(metrics, name) for name in metrics.adapted]
    rows = [[*row, text] if between else row for row, text in zip(scores, texts)]
    drawn = f"{plural(groups, 'group')} of images" if groups else "the test images"
    note = f"Intervals are from a bootstrap of {drawn}." if between else ""
    return Report.of_run(
        info,
        kind="Report of one adaptation run",
        title=f"{info.data.name or 'data'}: {info.task}",
        lead=f"On {plural(metrics.test_images, 'test image')} that took no part in the training.",
        sections=[
            HeadlineSection(numbers),
            shared.warnings(small_test_words(metrics, info.notes)),
            shared.notes(info),
            TableSection("All scores", ("Score", "Value", *(("95 % interval",) if between else ())), rows, note),
            *sections,
            _course(history),
            _facts(info),
            shared.skipped(info.skipped, "sample"),
            shared.use(_steps(shlex.quote(str(folder)))),
            shared.licences(info),
        ],
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
    of_task: dict[str, Sequence[Any]] = {
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
    read = BeforeAfter.from_json(metrics)
    images, groups, between = read.test_images, read.test_groups, read.metric_intervals
    of_groups = f" of {groups} group{'s' * (groups != 1)}" if groups else ""
    table = Table(title=f"{images} test image{'s' * (images != 1)}{of_groups}", title_justify="left")
    table.add_column("")
    for column in ("score", *(("95 % interval",) if between else ())):
        table.add_column(column, justify="right")
    for key, value in read.adapted.items():
        shown = "–" if value is None else f"{value:.1%}" if is_share(key) else f"{value:.4g}"
        table.add_row(with_arrow(key), shown, *([_between(read, key)] if between else []))
    return table


def summaries_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per image: what the task says of it."""
    table = Table()
    for name in ("image", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        rest = {key: value for key, value in row.items() if key != "id"}
        table.add_row(row["id"], row.get("summary") or str(rest))
    return table
