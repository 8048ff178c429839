"""Labels where they are worth most: `select` lists images, `label` opens the page on which they are labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..contracts.use import USE
from ..engine.options import SelectOptions
from ..errors import ConfigError
from ..labelling.options import LabelOptions
from .options import FromOptions, FromRecipe, Given, Json
from .tables import echo, echo_skipped, print_json, reporter, words_of

if TYPE_CHECKING:
    from ..engine.select import Selected

OF_METHOD = "method."
"""How an option of a selector begins behind `--set`."""
KEYS = "data classes domain task adapter seed backbone device amp batch_size workers sets"
HELPS = {
    "classes": "The classes: a,b,c or a text file with one per line.",
    "adapter": "Method that predicts once there are labels; by default auto.",
    "seed": "Random seed; 1 by default.",
    "batch_size": USE["batch_size"].sentence,
}
"""Where a flag of `select` means less than that of a fit."""


def select(
    out: Annotated[str, typer.Option(metavar="FILE", help="File to write, .csv: the images to label.")],
    given: Annotated[Given, FromRecipe(KEYS, HELPS)],
    how: Annotated[dict[str, Any], FromOptions(SelectOptions)],
    wrong_labels: Annotated[
        bool, typer.Option("--wrong-labels", help="List the images of a labelled set whose labels look wrong instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the images most worth labelling next; one in five is drawn at random, to measure accuracy.

    Example: vladapt select --data ./photos --classes "cat, dog" --budget 50 --out todo.csv
    """
    from ..engine.select import select as engine_select
    from ..engine.select import select_wrong_labels
    from ..runs.sections import worded

    options, others = _options_of_method(given.sets)
    recipe = replace(given, sets=others).recipe()
    words = words_of(recipe)
    if wrong_labels:
        budget = how.pop("budget", None)
        for_others = {**{f"--{name}": value for name, value in how.items()}, f"--set {OF_METHOD}": options}
        if unused := next((flag for flag, value in for_others.items() if value), None):
            raise ConfigError(f"{unused}: not for --wrong-labels; omit it")
        selected = select_wrong_labels(recipe, out, budget=budget, reporter=reporter(words))
    else:
        selected = engine_select(recipe, out, options=options, reporter=reporter(words), **how)
    if as_json:
        print_json(_as_json(selected))
        return
    echo_skipped(selected.skipped)
    for line in [*selected.notes, *(_of_doubts(selected) if wrong_labels else _of_round(selected))]:
        echo(worded(line, words))
    if selected.file is not None:
        echo(f"Label:  vladapt label {selected.file} --out {'corrections' if wrong_labels else 'labels'}.csv")


def label(
    how: Annotated[dict[str, Any], FromOptions(LabelOptions)],
    todo: Annotated[str | None, typer.Argument(help="A table that `vladapt select` wrote.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="File of labels, .csv; an existing one is continued.")
    ] = None,
    merge: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="List where two files of labels disagree, and exit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Open a page on this machine to label images with the keyboard; each answer is written at once.

    Example: vladapt label todo.csv --out labels.csv
    """
    if merge is not None:
        if todo is not None or out is not None:
            raise ConfigError("--merge: compares two files of labels; omit the table and --out")
        _merge(*merge, as_json)
        return
    if todo is None or out is None:
        raise ConfigError("give the table of images and --out labels.csv, or --merge A B")
    from ..labelling.serve import serve_labels

    count = 0

    def opened(address: str, images: int, done: int) -> None:
        nonlocal count
        count = images
        if as_json:
            print_json({"address": address, "images": images, "labelled": done, "out": out})
            return
        echo(f"Label {images} images ({done} done): {address}")
        echo(f"Each answer is written to {out} at once. Stop with Ctrl-C; the same command continues.")

    done = serve_labels(todo, out, LabelOptions(**how), opened)
    if not as_json:
        echo(f"{done} of {count} images labelled: {out}" + (f". Fit: vladapt fit --data {out}" if done else ""))


def _options_of_method(sets: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """Options of the selector, and the other texts of `--set`."""
    from ..recipes.resolve import parse_set

    options, others = {}, []
    for text in sets:
        if text.strip().startswith(OF_METHOD):
            key, value = parse_set(text, f"{OF_METHOD}base=entropy")
            options[key.removeprefix(OF_METHOD)] = value
        else:
            others.append(text)
    return options, others


def _as_json(selected: Selected) -> dict[str, object]:
    return {
        **vars(selected),
        "curve": [point.to_dict() for point in selected.curve],
        "payoff": None if selected.payoff is None else vars(selected.payoff),
    }


def _of_round(selected: Selected) -> list[str]:
    others = selected.images - selected.random
    lines = [
        f"Round {selected.round}: {selected.images} of {selected.pool} images to label, {others} by {selected.method} "
        f"and {selected.random} at random: {selected.file}"
    ]
    if selected.curve:
        images = len(selected.curve[0].right)
        lines.append(f"Accuracy on the {images} image{'s' * (images > 1)} drawn at random so far:")
        lines += [
            f"  {point.labels:>5} labels: {point.accuracy:.1%} ({point.interval[0]:.1%} to {point.interval[1]:.1%})"
            for point in selected.curve
        ]
    return lines + _of_payoff(selected)


def _of_payoff(selected: Selected) -> list[str]:
    from ..labelling.curve import PAYS, PAYS_NOT, WORTH

    made = selected.payoff
    if made is None:
        return []
    low, high = made.interval
    gain = f"from {made.before} to {made.after} labels accuracy changed by {100 * made.gain:+.1f} points"
    gain += f" ({100 * low:+.1f} to {100 * high:+.1f})"
    words = {
        PAYS: f"More labels still pay: {gain}.",
        PAYS_NOT: f"More labels hardly pay: {gain}, all below {100 * WORTH:.0f} points.",
    }
    return [words.get(made.verdict, f"Too few images drawn at random to say whether more labels pay: {gain}.")]


def _of_doubts(selected: Selected) -> list[str]:
    if selected.file is None:
        return [f"None of the {selected.pool} labels looks wrong."]
    return [f"{selected.images} of {selected.pool} labels look wrong to {selected.method}: {selected.file}"]


def _merge(first: str, second: str, as_json: bool) -> None:
    from ..labelling.agreement import compare_labels

    agreement = compare_labels(first, second)
    rows = [{"id": id_, "first": one, "second": other} for id_, one, other in agreement.disagreements]
    if as_json:
        counts = {"both": agreement.both, "agreed": agreement.agreed}
        print_json({**counts, "kappa": agreement.kappa, "disagreements": rows})
        return
    kappa = "" if agreement.kappa is None else f", Cohen's kappa {agreement.kappa:.2f}"
    echo(f"{agreement.both} images in both files, {agreement.agreed} labelled alike{kappa}")
    width = max((len(row["id"]) for row in rows), default=0)
    for row in rows:
        echo(f"  {row['id']:<{width}}  {row['first']}  |  {row['second']}")


COMMANDS = {"select": select, "label": label}
