"""Write sentences about pictures of people: garments, colours, carried things, seen by a tower or taken from lists."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ....core.commands import (
    FromEncoding,
    Json,
    echo,
    echo_skipped,
    print_json,
    reporter,
)

GROUP = "curate"


def person_captions(
    out: Annotated[str, typer.Option(metavar="FILE", help="A .jsonl file: image, identity, captions, attributes.")],
    encoding: Annotated[dict[str, Any], FromEncoding()],
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="DATA", help="Image files or folders of people, or sample.")
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Known attributes (CelebA's list, .mat, a table), or a .json of questions."),
    ] = None,
    sentences: Annotated[int, typer.Option(metavar="N", help="Sentences per picture, at most.")] = 2,
    min_confidence: Annotated[
        float, typer.Option(metavar="SHARE", help="Probability from which an attribute is mentioned, 0 to 1.")
    ] = 0.5,
    grouping: Annotated[
        str, typer.Option(metavar="NAME", help="Of faces: text2facegan (six groups) or facecaption (five).")
    ] = "text2facegan",
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page of a sample beside its sentences.")
    ] = None,
    shown: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Pictures on that page.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Fixes order and words.")] = 0,
    as_json: Json = False,
) -> None:
    """Write sentences about pictures of people, to train a search for people on.

    Asked are garments, colours and carried things. Gender, age and ethnicity are said only where --attributes gives
    them; else it is "a person".

    Example: vladapt curate person-captions ./people --out ./people/captions.jsonl --html sample.html
    """
    from ..captions.make import Captioning, caption_people

    made = caption_people(
        pictures or (),
        out,
        attributes=attributes,
        how=Captioning(sentences, min_confidence, seed, grouping),
        html=html,
        shown=shown,
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
