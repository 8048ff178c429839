"""Fit, and what follows a fit: `fit`, `eval`, `predict`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..contracts.recipe import OUTPUT, Recipe, as_flag
from ..contracts.use import USE
from ..engine.options import ShardOptions, are_shards
from ..errors import ConfigError, Stopped
from ..registry.catalogue import is_place
from ..runtime.progress import Timing, timed
from .options import FIT, FromOptions, FromRecipe, FromUse, Given, Json, OwnBackbone
from .options import Run as RunPlace
from .tables import (
    echo,
    echo_notes,
    echo_shards,
    echo_skipped,
    facts_table,
    judged_table,
    print_json,
    reporter,
    show_table,
    timing_table,
    words_of,
)

if TYPE_CHECKING:
    from ..contracts.task import Task

APPLIED = {"domain", "adapter", "data", "features", "backbone", "device", "workers", "resources", "out", "redact"}
"""Keys of a fit that a run which is fitted already takes."""
FEW_ANSWERS = 12
"""Up to so many are shown one by one, more only where that is asked for."""


def fit(
    given: Annotated[Given, FromRecipe(judged=FIT, several=True, place=True)],
    timing: Annotated[
        bool,
        typer.Option("--timing", hidden=True, help="Show where the seconds went, by part; with --json too."),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            hidden=True,
            help="Print what follows from the data and would be trained (volume-segmentation), and train nothing.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Adapt a model to a data set and write a run with a report.

    Example: vladapt fit ./photos --shots 16, or vladapt fit --domain medical --data ./xrays --adapter ape
    """
    from ..recipes.resolve import check_recipe

    resolved = given.recipe()
    if (place := resolved.adapter_name) is not None and is_place(place):
        _check_applied(resolved, place)
        _evaluate_on(place, resolved, as_json)
        return
    check_recipe(resolved)
    if plan:
        _show_plan(resolved, as_json)
        return
    spent = Timing() if timing else None
    from ..engine.fit import fit as engine_fit
    from ..runtime.files import CheckpointsKept

    try:
        with timed(spent):
            result = engine_fit(resolved, reporter=reporter(words_of(resolved)))
    except CheckpointsKept as stop:
        raise Stopped({"--resume": ""}) from stop
    if result is None:
        return
    if as_json:
        print_json({**result.summary, "timing": spent.seconds} if spent else result.summary)
        return
    _show(result, words_of(resolved))
    if spent:
        show_table(timing_table(spent))


def _show_plan(recipe: Recipe, as_json: bool) -> None:
    """What a fit would train."""
    from ..engine.fit import plan as engine_plan

    facts = engine_plan(recipe, reporter=reporter(words_of(recipe)))
    print_json(facts) if as_json else show_table(facts_table(facts))


def _check_applied(recipe: Recipe, place: str) -> None:
    """Raise the ConfigError of what a run that is fitted already does not take; it is evaluated."""
    from ..runs.folder import Run

    for key in sorted(recipe.given):
        if key.partition(".")[0] not in APPLIED or (key.startswith("adapter.") and key != "adapter.name"):
            raise ConfigError(f"{as_flag(key)}: {place} is already fitted and learns nothing here; omit it")
    if not (recipe.gave("data.path") or recipe.features):
        raise ConfigError(f"--adapter {place}: name the images to evaluate it on, with --data or --features")
    if recipe.domain and recipe.domain != (theirs := Run.open(place).info.domain):
        raise ConfigError(f"--domain {recipe.domain}: {place} is of domain {theirs}; omit --domain")


def _evaluate_on(place: str, recipe: Recipe, as_json: bool) -> None:
    """Evaluate the run that a recipe names in place of a method."""
    named = {key: getattr(recipe, key) for key in ("features", "device", "workers", "redact") if recipe.gave(key)}
    named |= {"data": recipe.data_path} if recipe.gave("data.path") else {}
    named |= {"resources": recipe.resources} if recipe.resources else {}
    named |= {"reading": recipe.reading} if recipe.reading else {}
    backbone = recipe.backbone if recipe.gave("backbone") else None
    evaluate(place, named, backbone, recipe.out, as_json=as_json)


def _show(result, words: Mapping[str, str]) -> None:
    """Scores, what was chosen, and where the run lies."""
    from ..runs.sections import choice, worded

    if result.metrics.get("adapted"):  # rows without labels have no scores
        show_table(result.task.table(result.metrics), words)
    echo(worded(result.task.verdict(result.metrics), words))
    echo(worded(choice(result.report), words))
    if result.report.judged:
        show_table(judged_table(result.report.judged), words)
    echo_notes(result.notes, words)
    echo_skipped(result.skipped)
    if result.encoded or result.from_store:
        echo(worded(f"Features: {result.encoded} images encoded, {result.from_store} from the store.", words))
    echo(f"Run:    {result.run}")
    if (report := result.run / "report.html").is_file():  # rows without labels have nothing to report
        echo(f"Report: {report}")


def evaluate(
    run: RunPlace,
    how: Annotated[dict[str, Any], FromUse("evaluate")],
    backbone: OwnBackbone = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the report and the numbers; by default in RUN/evaluations.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    fail_under: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="End with exit code 1 where the 95 % interval of a score begins lower: accuracy=0.8,worst_group=0.6; "
            "accuracy.point=0.8 compares the score itself.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run again, on its own test images or on other data of the same classes; with --protocol cross-dataset
    it was fitted for data of other classes too.

    Writes report.html, metrics.json and predictions.csv; the run itself stays as it is.

    Example: vladapt eval runs/20260101-120000-medical-ape-1a2b --data ./other_hospital
    """
    from ..recipes.resolve import check_run

    check_run(run, out)
    from ..contracts.judgement import EVAL, Findings
    from ..engine.fit import evaluate as engine_evaluate
    from ..engine.fit import task_of_run
    from ..engine.models import opened_run
    from ..registry.build import judgements_of, judges_at
    from ..runs.folder import evaluation_folder
    from ..runs.limits import check_asked, check_limits, parse_limits
    from ..runs.sections import worded, words_of_task

    limits = parse_limits(fail_under) if fail_under is not None else ()
    opened = opened_run(run, backbone)
    task = task_of_run(opened)
    check_asked(limits, judges_at(task, EVAL, how), opened.metrics, task.falls)
    if out is None and "out" in task.at_evaluation:
        of = next((how[key] for key in ("data", "features", "split") if how.get(key)), USE["split"].default)
        out = str(evaluation_folder(opened.aside, of))
    words = words_of_task(task, opened.info.recipe.get("data") or {})
    result = engine_evaluate(run, backbone=backbone, out=out, reporter=reporter(words), **how)
    if as_json:
        print_json({**result, **({"out": out} if out else {})})
        check_limits(result, limits, Findings.of_metrics(judgements_of(task), result), task.falls)
        return
    echo(worded(result.get("in_fit_words", ""), words))
    show_table(task.table(result), words)
    echo(worded(task.verdict(result), words))
    echo_notes(result.get("notes", ()), words)
    echo_skipped(result.get("skipped", ()))
    if out:
        echo(f"Written: {out}")
    check_limits(result, limits, Findings.of_metrics(judgements_of(task), result), task.falls)


def predict(
    run: RunPlace,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files or folders; for a run that was made from a features file, another such file; with --as "
            "parquet also tars, Parquet files and URLs."
        ),
    ],
    how: Annotated[dict[str, Any], FromUse("predict")],
    shards: Annotated[dict[str, Any], FromOptions(ShardOptions)],
    backbone: OwnBackbone = None,
    out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="A file for the predictions (.csv, .jsonl, .html), a file of a kind that the domain writes, such as a "
            "map (its page says which), or a folder for pictures and files of what was found. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="KIND,KIND",
            help="Kinds of output to write into --out DIR (`vladapt list outputs`): dicom-sr, worklist, ...; an option "
            "of one follows its name, as in worklist:urgent=mass. Repeatable. Or parquet: shards, for sets of any "
            "size, which the same command continues where it was stopped.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Explain each answer: labelled examples and heat maps, on a page in --out DIR.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    explain_method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How heat maps are made: grad-cam, occlusion, rollout or attention; the default suits the backbone.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    rows: Annotated[
        bool,
        typer.Option(
            "--rows",
            help="Print a row for each image, also of more than 12, in place of a summary.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Classify new images with a run, or find things in them.

    Example: vladapt predict runs/20260101-120000-medical-ape-1a2b new_scans/
    """
    from ..recipes.resolve import check_run

    check_run(run)
    from ..contracts.domain import OwnFiles
    from ..engine.fit import check_answered, task_of_run
    from ..engine.fit import predict as engine_predict
    from ..engine.models import opened_run
    from ..runs.sections import errors_in_words, worded, words_of_task
    from .tables import own_table

    tolerate = how.pop("tolerate", USE["tolerate"].default)
    how = {**how, "explain": explain_method or explain}
    opened = opened_run(run, backbone)
    task = task_of_run(opened)
    words = words_of_task(task, opened.info.recipe.get("data") or {})
    places = {"backbone": backbone, "out": out, "outputs": outputs, "reporter": reporter(words)}
    if are_shards(outputs):
        made = engine_predict(run, images, **places, **how, **shards, tolerate=tolerate)
        print_json({"run": run, **vars(made)}) if as_json else echo_shards(made, words)
        return
    predicted = engine_predict(run, images, **places, **how, **shards)
    files, notes = predicted.files, getattr(predicted, "notes", [])
    if as_json:
        written = {"files": [str(file) for file in files]} if out else {}
        in_words = {"notes": [worded(note, words) for note in notes]} if notes else {}
        print_json({"run": run, "predictions": predicted.rows(), "skipped": predicted.skipped, **in_words, **written})
    elif isinstance(predicted, OwnFiles):
        show_table(own_table(predicted))
    else:
        _show_answers(task, predicted, words, rows)
    if not as_json:
        echo_notes(notes, words)
        echo_skipped(predicted.skipped)
        if files:
            echo(f"Written: {_places(files, out or [])}")
    with errors_in_words(task, opened.info.recipe.get("data")):
        check_answered(predicted, tolerate)


def _show_answers(task: Task, predicted: Any, words: Mapping[str, str], rows: bool) -> None:
    """Few answers, or with `rows` any number, one by one; many together, where the task can say so."""
    answers = predicted.rows()
    summary = task.predictions_summary(answers) if len(answers) > FEW_ANSWERS and not rows else None
    show_table(task.predictions_table(answers) if summary is None else summary, words)
    if summary is not None and not predicted.files:
        echo(f"Each of the {len(answers):,} answers: --rows, or in a file: --out predictions.csv")


def _places(files: list, out: list[str]) -> str:
    """Files by name, and how many there are in a folder."""
    given = {Path(place) for place in out}
    named = [str(file) for file in files if not given & set(file.parents)]
    folders = [place for place in out if place not in named]
    others = len(files) - len(named)
    return ", ".join([*named, *(f"{others} file{'s' * (others != 1)} in {folder}" for folder in folders)])


COMMANDS = {"fit": fit, "eval": evaluate, "predict": predict}
