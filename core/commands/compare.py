"""`compare`: methods, recipes and backbones over shots, seeds and splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..contracts.recipe import DATA, OUTPUT
from ..contracts.task import Axes
from ..errors import Stopped
from .options import FromOptions, FromRecipe, Given, Json, Out, Place, flag_of_place
from .tables import echo, echo_notes, echo_skipped, print_json, reporter, show_table, words_of

if TYPE_CHECKING:
    from ..engine.comparison import Comparison

SHARED = (
    "domain task backbone device amp batch_size workers tolerate recipe config sets resource classes protocol preset "
    "language redact"
)
"""What is said of all fits."""


def compare(
    axes: Annotated[dict[str, Any], FromOptions(Axes)],
    given: Annotated[Given, FromRecipe(SHARED)],
    data: Annotated[
        list[str] | None, typer.Option(help="Data set, or `sample`. Repeatable.", rich_help_panel=DATA)
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="Features file instead of images. Repeatable.", rich_help_panel=DATA),
    ] = None,
    place: Place = None,
    out: Out = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the comparison that was stopped in --out.", rich_help_panel=OUTPUT),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare methods over shots and seeds on the same data: a table, a CSV and a plot.

    Options of each method: --set adapters.lora.epochs=20 --set adapters.ape.alpha=2; of all that have them: --set
    adapter.views=0. The CSV grows fit by fit; a comparison that was stopped goes on with --resume.

    Example: vladapt compare ./photos, or vladapt compare --domain medical --adapters tip-adapter,ape --shots 1,4,16
    """
    from ..recipes.resolve import check_places, check_recipe_names

    if place is not None:
        sources = [{flag_of_place(place, {"data": data, "features": features}): place}]
    else:
        sources = [{"data": path} for path in data or ()] + [{"features": file} for file in features or ()]
    resolved = given.recipe()
    check_recipe_names(resolved, axes.get("adapters") or (), axes.get("backbones") or ())
    for on in [resolved.with_source(**source) for source in sources] or [resolved]:
        check_places(on)
    from ..engine.compare import STATE, folder_of
    from ..engine.compare import compare as engine_compare
    from ..runtime.process import keeps

    folder, words = folder_of(out), words_of(resolved)
    how = {"sources": sources, "out": folder, "resume": resume, "reporter": reporter(words)}
    try:
        result = engine_compare(resolved, **axes, **how)
    except KeyboardInterrupt as stop:
        if (folder / STATE).is_file():
            keeps("rows", folder)
            raise Stopped({"--out": str(folder), "--resume": ""}) from stop
        raise
    if as_json:
        print_json(_as_json(result))
        return
    _show_tables(result, markdown, words)
    _show_notes(result, words)


def _as_json(result: Comparison) -> dict[str, Any]:
    """What `--json` prints; what there is none of is left out."""
    files: dict[str, Any] = {"csv": str(result.csv), "plot": str(result.plot)}
    published, front, skipped = result.published(), result.front(), result.skipped
    content: dict[str, Any] = {
        "rows": result.rows,
        "tests": result.tests(),
        **({"published": published} if published else {}),
        **files,
    }
    content |= {"refused": result.refused, **({"front": front} if front else {})}
    return content | ({"skipped": skipped} if skipped else {})


def _show_tables(result: Comparison, markdown: bool, words: Mapping[str, str]) -> None:
    """The table of scores, and that of scores and costs where these were measured."""
    from .tables import comparison_markdown, comparison_table, front_markdown, front_table

    published, front = result.published(), result.front()
    if markdown:
        echo(comparison_markdown(result.summary(), published))
        if front:
            echo(f"\n{front_markdown(front, result.method)}")
    else:
        show_table(comparison_table(result.summary(), published), words)
        if front:
            show_table(front_table(front, result.method), words)


def _show_notes(result: Comparison, words: Mapping[str, str]) -> None:
    """Published numbers, tests, what was refused or left out, and where the files are."""
    from ..runs.sections import worded
    from .tables import comparison_tests, published_lines

    for line in published_lines(result.published(), result.method):
        echo(line)
    for line in comparison_tests(result.tests(), result.method):
        echo(worded(line, words))
    for name, reason in result.refused.items():
        echo(worded(f"Refused: {name}: {reason}", words))
    echo_notes(result.notes, words)
    echo_skipped(result.skipped)
    echo(f"Rows: {result.csv}")
    echo(f"Plot: {result.plot}")
    if result.costs:
        echo(f"Front: {result.plot.parent / 'front.png'}")


COMMANDS = {"compare": compare}
