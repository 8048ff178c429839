"""Write sentences about pictures of people: garments, colours, carried things, seen by a tower or taken from lists."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ....core.commands import (
    FromEncoding,
    FromOptions,
    Json,
    echo,
    echo_skipped,
    print_json,
    reporter,
)
from ..captions.combine import Captioning

GROUP = "curate"


def person_captions(
    out: Annotated[str, typer.Option(metavar="FILE", help="A .jsonl file: image, identity, captions, attributes.")],
    encoding: Annotated[dict[str, Any], FromEncoding()],
    how: Annotated[dict[str, Any], FromOptions(Captioning)],
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="DATA", help="Image files or folders of people, or sample.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write sentences about pictures of people, to train a search for people on.

    Asked are garments, colours and carried things. Gender, age and ethnicity are said only where --attributes gives
    them; else it is "a person".

    Example: vladapt curate person-captions ./people --out ./people/captions.jsonl --html sample.html
    """
    from ..captions.make import caption_people

    made = caption_people(
        pictures or (),
        out,
        Captioning(**how),
        reporter=reporter(),
        **encoding,
    )
    if as_json:
        print_json({**vars(made), "skipped": [list(pair) for pair in made.skipped]})
        return
    echo_skipped(made.skipped)
    said = ", ".join(f"{name} {count:,}" for name, count in sorted(made.attributes.items(), key=lambda each: -each[1]))
    echo(f"Captions:   {made.out} ({made.pictures:,} pictures, {made.sentences:,} sentences)")
    echo(f"Attributes: {said}")
    if made.silent:
        echo(f"Left out:   {made.silent:,} pictures of which nothing was certain enough to be mentioned")
    if made.html:
        echo(f"Page:       {made.html}")
    if made.root != made.out.absolute().parent:
        echo(f"Names of pictures are relative to {made.root}; give it as --set data.root when you train.")
