"""Fit, and what follows a fit: `fit`, `eval`, `predict`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..contracts.recipe import as_flag
from ..errors import ConfigError
from ..registry.catalogue import is_place
from .options import (
    AdapterName,
    Amp,
    Backbone,
    BatchSize,
    Classes,
    ConfigFile,
    Coverage,
    Data,
    Debug,
    Device,
    Domain,
    EncodingBatch,
    Features,
    Json,
    MaxError,
    NewClasses,
    OtherData,
    Out,
    OwnBackbone,
    Preset,
    Protocol,
    RecipeName,
    Redact,
    Resource,
    SetMethod,
    Sets,
    Task,
    Workers,
    data_flags,
    reading_of,
    recipe_of,
    resource_flags,
    resources_of,
)
from .options import Run as RunPlace
from .tables import echo, echo_notes, echo_skipped, judged_table, print_json, reporter, show_table

APPLIED = {"domain", "adapter", "data", "features", "backbone", "device", "workers", "resources", "out", "redact"}
"""Keys of a fit that a run which is fitted already takes."""


def fit(
    domain: Domain = None,
    task: Task = None,
    data: Data = None,
    features: Features = None,
    adapter: AdapterName = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="Loss, for adapters that let it be chosen. Repeatable."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            metavar="N|all", help="Labelled images per class, or all; 0 for none. By default 16, all for a config."
        ),
    ] = None,
    val_shots: Annotated[
        str | None,
        typer.Option(
            metavar="N|all|none",
            help="Validation images per class that settings are chosen on; by default as many as shots, 4 at most, up "
            "to 16 shots, and all beyond.",
        ),
    ] = None,
    refit: Annotated[
        bool | None, typer.Option("--refit", help="After choosing settings on val, learn from its images too.")
    ] = None,
    protocol: Protocol = None,
    preset: Preset = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed, of the drawn shots and everything else that is random; by default 1."
        ),
    ] = None,
    backbone: Backbone = None,
    device: Device = None,
    amp: Amp = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Epochs, for adapters that train; by default the published number.")
    ] = None,
    batch_size: BatchSize = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Learning rate, for adapters that train; by default the published one."),
    ] = None,
    workers: Workers = None,
    recipe: RecipeName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    resource: Resource = None,
    classes: Classes = None,
    novel: Annotated[
        str | None,
        typer.Option(
            metavar="[NAMES]",
            help="Also test on the classes that --classes leaves out. In open-vocab: names that are tested but not "
            "trained, or coco, lvis (the published splits).",
        ),
    ] = None,
    generic: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Class folders of generic images, to see what trained towers forget; drawings by default.",
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume",
            help="Continue the same fit where it was stopped. For adapters that train towers; others keep no "
            "checkpoints and start again.",
        ),
    ] = None,
    redact: Redact = None,
    as_json: Json = False,
    debug: Debug = False,
    of_domain: Mapping[str, str] | None = None,
) -> None:
    """Adapt a model to a data set and write a run with a report.

    Example: vladapt fit --data ./photos --shots 16, or vladapt fit --domain medical --data ./xrays --adapter ape
    """
    from ..recipes.early import check_recipe

    flags = {
        **data_flags(domain, task, data, features, backbone, device, amp, batch_size, workers, classes),
        **resource_flags(resource),
        **(of_domain or {}),
        "adapter.name": adapter,
        "adapter.loss": ",".join(loss) if loss else None,
        "adapter.epochs": epochs,
        "adapter.lr": lr,
        "shots": shots,
        "val_shots": 0 if val_shots == "none" else val_shots,
        "refit": refit,
        "protocol": protocol,
        "preset": preset,
        "seed": seed,
        "novel": True if novel == "rest" else novel,
        "generic": generic,
        "out": out,
        "resume": resume,
        "redact": redact,
    }
    resolved = recipe_of(recipe, config, sets, flags)
    if is_place(resolved.adapter_name):
        _check_applied(resolved)
        how = {"backbone": backbone, "device": device, "workers": workers, "out": out, "redact": redact}
        how |= {"resource": resource, "of_domain": of_domain, "as_json": as_json}
        evaluate(resolved.adapter_name, data, features, **how)
        return
    check_recipe(resolved)
    from ..engine.fit import fit as engine_fit

    result = engine_fit(resolved, reporter=reporter())
    if result is None:
        return
    if as_json:
        print_json(result.summary)
    else:
        _show(result)


def _check_applied(recipe) -> None:
    """Raise the ConfigError of what a run that is fitted already does not take; it is evaluated."""
    from ..runs.folder import Run

    place = recipe.adapter_name
    for key in sorted(recipe.given):
        if key.partition(".")[0] not in APPLIED or (key.startswith("adapter.") and key != "adapter.name"):
            raise ConfigError(f"{as_flag(key)}: {place} is already fitted and learns nothing here; omit it")
    if not (recipe.gave("data.path") or recipe.features):
        raise ConfigError(f"--adapter {place}: name the images to evaluate it on, with --data or --features")
    if recipe.domain and recipe.domain != (theirs := Run.open(place).info["domain"]):
        raise ConfigError(f"--domain {recipe.domain}: {place} is of domain {theirs}; omit --domain")


def _show(result) -> None:
    """Scores, what was chosen, and where the run lies."""
    from ..runs.sections import choice

    if result.metrics.get("adapted"):  # rows without labels have no scores
        show_table(result.task.table(result.metrics))
    echo(result.task.verdict(result.metrics))
    echo(choice(result.report))
    if result.report.judged:
        show_table(judged_table(result.report.judged))
    echo_notes(result.notes)
    echo_skipped(result.skipped)
    if result.encoded or result.from_store:
        echo(f"Features: {result.encoded} images encoded, {result.from_store} from the store.")
    echo(f"Run:    {result.run}")
    if (report := result.run / "report.html").is_file():  # rows without labels have nothing to report
        echo(f"Report: {report}")


def evaluate(
    run: RunPlace,
    data: OtherData = None,
    features: Features = None,
    backbone: OwnBackbone = None,
    split: Annotated[str, typer.Option(help="Images to score: test, val, train or all.")] = "test",
    device: Device = None,
    workers: Workers = None,
    resource: Resource = None,
    classes: NewClasses = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder for the report and the numbers; by default in RUN/evaluations."),
    ] = None,
    coverage: Coverage = None,
    set_method: SetMethod = None,
    max_error: MaxError = None,
    vocabulary_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Also score a vocabulary that grows to all classes in N steps: extensibility and stability.",
        ),
    ] = None,
    redact: Redact = None,
    as_json: Json = False,
    debug: Debug = False,
    of_domain: Mapping[str, str] | None = None,
) -> None:
    """Evaluate a run again, on its own test images or on other data of the same classes; with --protocol cross-dataset
    it was fitted for data of other classes too.

    Writes report.html, metrics.json and predictions.csv; the run itself stays as it is.

    Example: vladapt eval runs/20260101-120000-medical-ape-1a2b --data ./other_hospital
    """
    from ..recipes.early import check_run

    check_run(run)
    from ..engine.fit import evaluate as engine_evaluate
    from ..engine.fit import task_of_run
    from ..runs.evaluations import evaluation_folder
    from ..runs.folder import Run

    opened = Run.open(run)
    task = task_of_run(opened)
    if out is None and "out" in task.at_evaluation:
        out = str(evaluation_folder(opened.aside, data or features or split))
    result = engine_evaluate(
        run,
        data=data,
        features=features,
        backbone=backbone,
        split=split,
        device=device or "auto",
        workers=workers,
        resources=resources_of(resource),
        classes=classes,
        out=out,
        reading=reading_of(of_domain),
        redact=bool(redact),
        coverage=coverage,
        set_method=set_method,
        max_error=max_error,
        vocabulary_steps=vocabulary_steps,
        reporter=reporter(),
    )
    if as_json:
        print_json({**result, **({"out": out} if out else {})})
        return
    echo(result.get("in_fit_words", ""))
    show_table(task.table(result))
    echo(task.verdict(result))
    echo_notes(result.get("notes", ()))
    echo_skipped(result.get("skipped", ()))
    if out:
        echo(f"Written: {out}")


def predict(
    run: RunPlace,
    images: Annotated[list[str], typer.Argument(help="Image files or folders.")],
    backbone: OwnBackbone = None,
    device: Device = None,
    batch_size: EncodingBatch = None,
    workers: Workers = None,
    resource: Resource = None,
    classes: NewClasses = None,
    out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="A file for the predictions (.csv, .jsonl, .html), a file of a kind that the domain writes, such as a "
            "map (its page says which), or a folder for pictures and files of what was found. Repeatable.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="K", help="How many of the most likely classes to show per image; by default 3."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Where images have several labels: name those of this probability or more; by default each label has "
            "a threshold of its own, the best on the run's calibration rows.",
        ),
    ] = None,
    coverage: Coverage = None,
    set_method: SetMethod = None,
    max_error: MaxError = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Treat the images as a stream: the run keeps what it learns from each."),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Explain each answer: labelled examples and heat maps, on a page in --out DIR."),
    ] = False,
    explain_method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How heat maps are made: grad-cam, occlusion or rollout; the default depends on the backbone.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
    of_domain: Mapping[str, str] | None = None,
) -> None:
    """Classify new images with a run, or find things in them.

    Example: vladapt predict runs/20260101-120000-medical-ape-1a2b new_scans/
    """
    from ..recipes.early import check_run

    check_run(run)
    from ..contracts.own_files import OwnFiles
    from ..engine.fit import predict as engine_predict
    from ..engine.fit import task_of_run
    from ..runs.folder import Run
    from .tables import own_table

    predicted = engine_predict(
        run,
        images,
        backbone=backbone,
        device=device or "auto",
        batch_size=batch_size,
        workers=workers,
        resources=resources_of(resource),
        reading=reading_of(of_domain),
        classes=classes,
        out=out,
        top=top,
        threshold=threshold,
        coverage=coverage,
        set_method=set_method,
        max_error=max_error,
        stream=stream,
        explain=explain_method or explain,
        reporter=reporter(),
    )
    files, notes = predicted.files, getattr(predicted, "notes", [])
    if as_json:
        written = {"files": [str(file) for file in files]} if out else {}
        skipped = [list(pair) for pair in predicted.skipped]
        said = {"notes": notes} if notes else {}
        print_json({"run": run, "predictions": predicted.rows(), "skipped": skipped, **said, **written})
        return
    if isinstance(predicted, OwnFiles):
        show_table(own_table(predicted))
    else:
        show_table(task_of_run(Run.open(run)).predictions_table(predicted.rows()))
    echo_notes(notes)
    echo_skipped(predicted.skipped)
    if files:
        echo(f"Written: {_places(files, out)}")


def _places(files: list, out: list[str]) -> str:
    """Files by name, and how many there are in a folder."""
    given = {Path(place) for place in out}
    named = [str(file) for file in files if not given & set(file.parents)]
    folders = [place for place in out if place not in named]
    others = len(files) - len(named)
    return ", ".join([*named, *(f"{others} file{'s' * (others != 1)} in {folder}" for folder in folders)])


COMMANDS = {"fit": fit, "eval": evaluate, "predict": predict}
