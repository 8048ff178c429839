"""Images and texts found by what they show: `index`, `search`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..contracts.use import USE
from ..errors import ConfigError
from .options import Debug, FromRecipe, FromUse, Given, Json
from .tables import echo, echo_skipped, print_json, reporter, show_table


def index(
    out: Annotated[str, typer.Option(help="Folder for the index.")],
    given: Annotated[
        Given,
        FromRecipe(
            "domain task backbone device amp batch_size workers sets", {"batch_size": USE["batch_size"].sentence}
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Image files or folders, or a file of pairs (CSV, JSON, tar)."),
    ] = None,
    texts: Annotated[str | None, typer.Option(help="Index a text file, one text per line, instead of images.")] = None,
    kind: Annotated[
        str, typer.Option(help="flat (exact), hnsw (a graph, for millions) or ivf (cells, quick to build).")
    ] = "flat",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Encode images or texts once, so that `vladapt search` can find them.

    Example: vladapt index ./photos --out photos.index
    """
    from ..engine.index import index as engine_index

    made = engine_index(given.recipe(), out, images=images or (), texts=texts, kind=kind, reporter=reporter())
    if as_json:
        print_json({**vars(made), "skipped": [list(pair) for pair in made.skipped]})
        return
    echo_skipped(made.skipped)
    if made.encoded or made.from_store:
        what = "images" if made.encoded + made.from_store >= made.entries else "samples of several parts"
        echo(f"Features: {made.encoded} {what} encoded, {made.from_store} from the store.")
    echo(f"Index:  {made.index} ({made.entries:,} {made.holds}, {made.kind}, {made.dims} wide)")
    echo(f'Search: vladapt search {made.index} "what you look for"')


def search(
    index: Annotated[str, typer.Argument(help="A folder that `vladapt index` wrote.")],
    how: Annotated[dict[str, Any], FromUse("search")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    text: Annotated[str | None, typer.Option(help="The same as QUERY.")] = None,
    image: Annotated[str | None, typer.Option(help="An image to look for, alone or together with the words.")] = None,
    weight: Annotated[
        float | None, typer.Option(help="Weight of the words where an image is given too, 0 to 1; 0.5 by default.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many results.")] = 10,
    camera: Annotated[
        str | None, typer.Option(help="Only results from this camera, where the index knows cameras.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only results from this date, time or frame on, where the index knows it."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only results with this value. Repeatable.")
    ] = None,
    cluster: Annotated[
        float | None, typer.Option(metavar="COSINE", help="Group results that are this alike, for instance 0.9.")
    ] = None,
    blur: Annotated[bool, typer.Option("--blur", help="Pixelate the top quarter of each picture on the page.")] = False,
    html: Annotated[str | None, typer.Option(help="Write a page of the pictures found to this file.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The index's backbone, if it has moved; it must be the same one.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search an index by words, by an image, or by both.

    Example: vladapt search photos.index "a dog on the beach" --html found.html
    """
    from ..engine.search import search as engine_search
    from .tables import hits_table

    if query is not None and text is not None:
        raise ConfigError("--text: the words are given twice; omit --text or QUERY")
    result = engine_search(
        index,
        query if text is None else text,
        image=image,
        weight=weight,
        top=top,
        html=html,
        backbone=backbone,
        where=_where(where, camera),
        since=since,
        cluster=cluster,
        blur=blur,
        **how,
    )
    if as_json:
        print_json({**vars(result), "hits": result.rows()})
        return
    show_table(hits_table(result.hits))
    if result.html:
        echo(f"Page: {result.html}")


def _where(given: list[str] | None, camera: str | None) -> dict[str, str]:
    """{"camera": "c1"} of `--where camera=c1`, or of `--camera c1`."""
    values = {} if camera is None else {"camera": camera}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ConfigError(f"--where {text}: write NAME=VALUE, for instance --where camera=c1")
        if values.setdefault(name.strip(), value.strip()) != value.strip():
            raise ConfigError(f"--where {text}: {name.strip()} is given twice; omit one")
    return values


COMMANDS = {"index": index, "search": search}
