"""Two towers as one backbone: `join`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..engine.options import JoinOptions
from .options import FromOptions, FromRecipe, Given, Json
from .tables import echo, echo_notes, print_json, reporter, show_table

ENCODED = "domain device amp batch_size workers tolerate sets"
"""How pairs are read and encoded."""


def join(
    image: Annotated[str, typer.Option(metavar="SPEC", help="Backbone whose images are taken (`list backbones`).")],
    text: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Text tower: hf: and an encoder of texts of any language, or a backbone whose texts are taken.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write, which is a backbone from then on.")],
    given: Annotated[Given, FromRecipe(ENCODED)],
    how: Annotated[dict[str, Any], FromOptions(JoinOptions)],
    as_json: Json = False,
) -> None:
    """Put an image tower and a text tower of another model or language into one space.

    From pairs of images and texts the map between them is fitted in closed form; without pairs it is made of names that
    both know. What was left out is measured, beside guessing.

    Example: vladapt join --image openai-vit-b-16 --text hf:sentence-transformers/LaBSE --pairs captions.csv --out de
    """
    from ..engine.join import join as engine_join
    from ..engine.joined_card import UNTRAINED, measured, origin

    made = engine_join(given.recipe(), image, text, out, reporter=reporter(), **how)
    if as_json:
        return print_json(
            {**vars(made), "metrics": dict(made.metrics), "choices": [vars(each) for each in made.choices]}
        )
    if made.choices:
        show_table(_choices(made.choices))
    if made.metrics.image_to_text:
        from ..tasks.retrieval.tables import retrieval_table

        show_table(retrieval_table(made.metrics))
    echo_notes(made.notes)
    use = "Train it by `vladapt pretrain`" if made.kind == UNTRAINED else "Use it"
    for line in (origin(made), measured(made), f"Written: {made.folder}. {use} as --backbone {made.folder}"):
        echo(line)


def _choices(choices):
    """The best of each kind of map."""
    from rich.table import Table

    table = Table(title="Maps, by cross-validation on the pairs")
    for column in ("map", "ridge", "mean reciprocal rank"):
        table.add_column(column, justify="left" if column == "map" else "right")
    shown = set()
    for each in choices:
        if each.kind not in shown:
            shown.add(each.kind)
            table.add_row(each.kind, "" if each.penalty is None else f"{each.penalty:g}", f"{each.score:.3f}")
    return table


COMMANDS = {"join": join}
