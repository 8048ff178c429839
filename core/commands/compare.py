"""`compare`: methods, recipes and backbones over shots, seeds and splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from ..contracts.recipe import ALL
from .options import (
    Amp,
    Backbone,
    BatchSize,
    Classes,
    ConfigFile,
    Debug,
    Device,
    Domain,
    Json,
    Out,
    Preset,
    Protocol,
    RecipeName,
    Redact,
    Resource,
    Sets,
    Task,
    Workers,
    data_flags,
    names,
    numbers,
    recipe_of,
    resource_flags,
)
from .tables import echo, echo_notes, print_json, reporter, show_table


def compare(
    adapters: Annotated[str | None, typer.Option(help="Methods, comma-separated; zero-shot is always added.")] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            help="Packaged recipes or config files, comma-separated, for tasks that train a config (detection, ...)."
        ),
    ] = None,
    backbones: Annotated[str | None, typer.Option(help="Backbones, comma-separated, each with all methods.")] = None,
    domain: Domain = None,
    task: Task = None,
    data: Annotated[list[str] | None, typer.Option(help="Data set, or `sample`. Repeatable.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="Features file instead of images. Repeatable.")] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            help="Labelled images per class, or all, comma-separated; by default 1,2,4,8,16, or all for a config."
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds, comma-separated; by default 1,2,3, or one for each of several splits."),
    ] = None,
    splits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Split the data N times into train, val and test, to show the spread over test sets; by default 10 "
            "where there are fewer than 300 test images (3 where towers are trained), else 1.",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", help="K-fold splits instead: each image is in one of the K test sets.")
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of tasks of each kind under --protocol transductive; by default as published."
        ),
    ] = None,
    backbone: Backbone = None,
    device: Device = None,
    amp: Amp = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    recipe: RecipeName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    resource: Resource = None,
    classes: Classes = None,
    protocol: Protocol = None,
    preset: Preset = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the comparison that was stopped in --out.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    redact: Redact = None,
    as_json: Json = False,
    debug: Debug = False,
    of_domain: Mapping[str, str] | None = None,
) -> None:
    """Compare methods over shots and seeds on the same data: a table, a CSV and a plot.

    Options of each method: --set adapters.lora.epochs=20 --set adapters.ape.alpha=2; of all that have them: --set
    adapter.views=0. The CSV grows fit by fit; a
    comparison that was stopped goes on with --resume.

    Example: vladapt compare --domain medical --adapters tip-adapter,ape --shots 1,4,16 --seeds 1,2,3
    """
    from ..recipes.early import check_names
    from .tables import comparison_markdown, comparison_table, comparison_tests, published_lines

    flags = data_flags(domain, task, None, None, backbone, device, amp, batch_size, workers, classes)
    flags.update({**resource_flags(resource), **(of_domain or {}), "redact": redact})
    flags.update(protocol=protocol, preset=preset)
    sources = [{"data": path} for path in data or ()] + [{"features": file} for file in features or ()]
    resolved = recipe_of(recipe, config, sets, flags)
    check_names(resolved, names(adapters) or ())
    from ..engine.compare import compare as engine_compare

    result = engine_compare(
        resolved,
        names(adapters),
        numbers("--shots", shots, ALL),
        numbers("--seeds", seeds),
        recipes=names(recipes),
        backbones=names(backbones),
        sources=sources,
        splits=splits,
        folds=folds,
        tasks=tasks,
        out=out,
        resume=resume,
        reporter=reporter(),
    )
    if as_json:
        files = {"csv": str(result.csv), "plot": str(result.plot)}
        published = {"published": result.published()} if result.published() else {}
        print_json({"rows": result.rows, "tests": result.tests(), **published, **files, "refused": result.refused})
        return
    if markdown:
        echo(comparison_markdown(result.summary(), result.published()))
    else:
        show_table(comparison_table(result.summary(), result.published()))
    for line in published_lines(result.published(), result.method):
        echo(line)
    for line in comparison_tests(result.tests(), result.method):
        echo(line)
    for name, reason in result.refused.items():
        echo(f"Refused: {name}: {reason}")
    echo_notes(result.notes)
    echo(f"Rows: {result.csv}")
    echo(f"Plot: {result.plot}")


COMMANDS = {"compare": compare}
