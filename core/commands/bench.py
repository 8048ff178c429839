"""Backbones on published sets: `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..contracts.recipe import DATA, KEYS, OUTPUT, SAMPLE, check_data_place
from ..errors import UnknownNameError, did_you_mean
from ..registry.catalogue import benchmarks
from .options import FromRecipe, Given, Json
from .tables import echo, echo_notes, echo_skipped, markdown_of, named_table, print_json, reporter, show_table, signed

ENCODED = "domain task device amp batch_size workers tolerate sets protocol preset language seed"
"""How images are encoded, and how folders of the user's own are read."""
NAMES = ("set", "part", "measure")
WHOLE = "all"
"""What the whole of a set is called among its parts."""
"""Columns that say what a row is."""


def bench(
    backbones: Annotated[
        list[str],
        typer.Argument(metavar="BACKBONE...", help="Backbones (`list backbones`); others are compared with the first."),
    ],
    given: Annotated[
        Given,
        FromRecipe(ENCODED, {"domain": "Domain that reads folders which are no published set; by default natural."}),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Folder of a published set, a folder of such folders, or your own images as fit reads them. "
            "Repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder for bench.csv, written set by set.", rich_help_panel=OUTPUT),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Json = False,
) -> int:
    """Score backbones zero-shot on published sets, with intervals, and with published results where there are some.

    Sets are recognised by their files (`list benchmarks`). Nothing is downloaded but a backbone that you name. An
    option of a kind of set: --set KIND.NAME=VALUE. Ends with 1 where a set could not be scored.

    Example: vladapt bench openai-vit-b-32 --data ./wds_cars --data ./wds_mscoco_captions
    """
    from ..backbones.specs import check_spec, with_own_code

    options, of_recipe = _options_of_sets(given.sets)
    specs = [str(with_own_code(spec)) for spec in backbones]
    for spec in specs:
        check_spec(spec)
    for place in data or ():
        if not place.startswith(f"{SAMPLE}:"):
            check_data_place(place)
    settled = replace(given, sets=of_recipe).recipe()
    from ..engine.bench import bench as engine_bench

    made = engine_bench(settled, specs, data or (), options=options, out=out, reporter=reporter())
    if as_json:
        print_json({**vars(made), "csv": None if made.csv is None else str(made.csv)})
        return int(bool(made.failed))
    if made.rows and markdown:
        echo(markdown_of(bench_cells(made.rows, made.gains)))
    elif made.rows:
        _show(made.rows, made.gains)
    for source in dict.fromkeys(source for row in made.rows for source in row["published"]):
        echo(f"Published: {source}.")
    for title, reason in made.failed.items():
        echo(f"Failed: {title}: {reason}")
    echo_notes(made.notes)
    echo_skipped(made.skipped)
    if made.csv is not None and made.rows:
        echo(f"Rows: {made.csv}")
    return int(bool(made.failed))


def _options_of_sets(texts: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What `--set` says of kinds of sets, kind -> name -> value; and the other texts, of the recipe."""
    from ..recipes.resolve import parse_set

    options: dict[str, dict[str, Any]] = {}
    others = []
    for text in texts:
        kind, dot, name = text.partition("=")[0].strip().partition(".")
        if dot and kind in benchmarks():
            options.setdefault(kind, {})[name] = parse_set(text)[1]
        elif dot and kind not in KEYS:
            known = did_you_mean(kind, benchmarks())
            raise UnknownNameError(f"--set {kind}.{name}: '{kind}' is no kind of set and no key of a recipe; {known}")
        else:
            others.append(text)
    return options, others


def _show(rows: Sequence[Mapping[str, Any]], gains: Sequence[Mapping[str, Any]]) -> None:
    """One table of all sets that have no parts, and one of each that has."""
    parted = {row["set"] for row in rows if row["part"]}
    for title in dict.fromkeys(row["set"] if row["set"] in parted else "" for row in rows):
        shown = [row for row in rows if (row["set"] == title if title else row["set"] not in parted)]
        cells = bench_cells(shown, gains)
        if title:  # it names the set
            cells = [[part or WHOLE, *line] for _, part, *line in cells]
        of = f"{title}: zero-shot" if title else "Zero-shot"
        show_table(named_table(f"{of} in %, with 95 % intervals", cells, NAMES))


def bench_cells(rows: Sequence[Mapping[str, Any]], gains: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Scores down, backbones across; the header first. Columns that hold nothing are left out."""
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    of = {(_place(row), row["backbone"]): row for row in rows}
    gained = {(_place(gain), gain["backbone"]): gain for gain in gains}
    lines = [[*NAMES, "count", "guessing"]]
    for spec in backbones:
        lines[0] += [spec, "published", "gain"]
    for place in dict.fromkeys(map(_place, rows)):
        first = next(of[place, spec] for spec in backbones if (place, spec) in of)
        line = [*place, f"{first['count']:,}", _percent(first["guessing"])]
        for spec in backbones:
            row, gain = of.get((place, spec)), gained.get((place, spec))
            line += ["–", "", ""] if row is None else [_bounded(row), _published(row), _gained(gain)]
        lines.append(line)
    filled = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
    return [[line[column] for column in filled] for line in lines]


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["set"], row["part"], row["measure"]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _bounded(row: Mapping[str, Any]) -> str:
    between = "" if row["low"] is None else f" [{_percent(row['low'])}, {_percent(row['high'])}]"
    return f"{_percent(row['value'])}{between}"


def _published(row: Mapping[str, Any]) -> str:
    """Each published value, and how ours differs."""
    values = dict.fromkeys(row["published"].values())
    return ", ".join(f"{_percent(value)} ({signed('accuracy', row['value'] - value)})" for value in values)


def _gained(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return ""
    between = " to ".join(signed("accuracy", gain[side]) for side in ("low", "high") if gain[side] is not None)
    return f"{signed('accuracy', gain['difference'])}{f' ({between})' if between else ''}"


COMMANDS = {"bench": bench}
