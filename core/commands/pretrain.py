"""`pretrain`: a backbone on image-text pairs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backbones.specs import with_own_teachers
from ..contracts.sources import SourceOptions
from ..errors import Stopped
from .options import MIXING, Backbone, Device, FromOptions, FromTask, Generic, Json, Sets
from .tables import echo, echo_skipped, print_json, reporter, show_table

SETTINGS = "epochs batch_size micro_batch_size lr seed amp workers tolerate lock lora deterministic"
"""Options of the task that are flags; `--set` takes the others."""


def pretrain(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH[=WEIGHT]",
            help="Pairs: CSV, TSV, JSONL, COCO or Karpathy JSON, WebDataset tars, a folder of images with texts, "
            "or `sample`; for loss m-clip a table of sentences and their translations. Repeatable: samples of several "
            "sources are mixed by their weights.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the model, its report and its checkpoints.")],
    settings: Annotated[dict[str, Any], FromTask("pretraining", SETTINGS)],
    mixing: Annotated[dict[str, Any], FromOptions(SourceOptions, " ".join(MIXING))],
    loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WEIGHT]",
            help="Loss (`vladapt list losses`); clip by default. Several are summed. Repeatable.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC", help="Teacher backbone, for losses that distil. Repeatable.", callback=with_own_teachers
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Read the pairs, their findings and their pixels as this domain does."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="A recipe of pre-training, for instance medical/gloria.")
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(metavar="DATA", help="A further set of pairs, trained on after the ones before it. Repeatable."),
    ] = None,
    continual: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="What keeps earlier sets from being forgotten: replay, ctp, lwf, self-distill, or none by default.",
        ),
    ] = None,
    wise_ft: Annotated[
        float | None,
        typer.Option(help="Share of the trained weights in the model at the end, the rest those of the start."),
    ] = None,
    backbone: Backbone = None,
    generic: Generic = None,
    device: Device = None,
    sets: Sets = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue this training where it was stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Train a backbone on image-text pairs, from its weights or from scratch; use the model as --backbone.

    With --set any other choice: a setting (`--set layer_decay=0.7`), an option of a loss
    (`--set loss.silc.momentum=0.99`), of the reader (`--set data.root=images`) or of the mixing of several sources
    (`--set sources.batch=one`). With --then one set follows the other, and a table says what was forgotten of each.

    Example: vladapt pretrain --data pairs.csv --loss clip=1 --loss silc=0.5 --epochs 10 --out models/mine
    """
    asked = {"losses": loss, "settings": settings, "sets": sets or (), "out": out, "backbone": backbone}
    asked |= {"teacher": teacher, "generic": generic, "device": device}
    in_turn = {"then": then or (), "continual": continual, "wise_ft": wise_ft}
    if any(value not in (None, ()) for value in in_turn.values()):
        plan, folder, run = _in_turn(data, mixing, in_turn, {"named": recipe, "domain": domain, **asked})
    else:
        plan, folder, run = _at_once(data, mixing, recipe, domain, asked)
    from ..runtime.process import keeps

    words = plan.words
    try:
        result = run(resume=resume, reporter=reporter(words))
    except KeyboardInterrupt as stop:
        if folder.stages:
            keeps("checkpoints", plan.out)
            raise Stopped({"--resume": ""}) from stop
        raise
    if result is None:
        return
    if as_json:
        print_json(result.summary)
    else:
        _show(result, words)


def _in_turn(data: list[str], mixing: Mapping[str, Any], in_turn: Mapping[str, Any], asked: Mapping[str, Any]):
    """The plan of the first of several sets, their folder, and what trains on them."""
    from ..tasks.pretraining.continuing import ContinualFolder, continue_pretraining
    from ..tasks.pretraining.options import continual_plan_of

    chain = continual_plan_of(data=data, mixing=mixing, **in_turn, **asked)
    return chain.first, ContinualFolder(Path(chain.first.out)), partial(continue_pretraining, chain)


def _at_once(
    data: list[str], mixing: Mapping[str, Any], recipe: str | None, domain: str | None, asked: Mapping[str, Any]
):
    """The plan of one training, its folder, and what makes it."""
    from ..tasks.pretraining.options import plan_of, plan_of_recipe
    from ..tasks.pretraining.pretrain import PretrainFolder, pretrain

    if domain or recipe:
        plan = plan_of_recipe(recipe, domain=domain, data=data, mixing=mixing, **asked)
    else:
        plan = plan_of(data=data, mixing=mixing, **asked)
    return plan, PretrainFolder(Path(plan.out)), partial(pretrain, plan)


def _show(result, words: Mapping[str, str]) -> None:
    """What the training changed, and where it lies."""
    from ..runs.sections import worded
    from ..tasks.pretraining.remembered import SetsRemembered
    from ..tasks.retrieval.source_scores import KEY as SOURCES
    from ..tasks.retrieval.source_scores import source_table
    from ..tasks.retrieval.tables import retrieval_table

    if result.finished_before:
        echo("This training had already finished; these are its results.")
    if result.metrics.get("adapted"):
        show_table(retrieval_table(result.metrics), words)
    if remembered := result.metrics.get("remembered"):
        show_table(SetsRemembered.from_json(remembered).table(), words)
    if (sources := source_table(result.metrics.get(SOURCES, ()))) is not None:
        show_table(sources, words)
    for note in result.notes:
        echo(worded(note, words))
    echo_skipped(result.skipped)
    echo(f"Model:  {result.model}")
    echo(f"Report: {result.model.parent / 'report.html'}")


COMMANDS = {"pretrain": pretrain}
