"""Images and texts found by what they show: `index`, `search`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..contracts.use import USE
from ..engine.options import EvaluateOptions, IndexOptions, QueriesOptions, SearchOptions
from ..errors import CapabilityError, ConfigError, VladaptError
from .options import FromOptions, FromRecipe, FromUse, Given, Json
from .tables import echo, echo_notes, echo_skipped, print_json, reporter, show_table, words_of

if TYPE_CHECKING:
    from ..engine.index import Indexed
    from ..engine.search import SearchResult

MANY_SEGMENTS = 20


class NotAboveChance(VladaptError):
    """The best answer of a `--strict` search does not stand out."""


def index(
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the index.")],
    given: Annotated[
        Given,
        FromRecipe(
            "domain task backbone device amp batch_size workers tolerate sets",
            {name: USE[name].sentence for name in ("batch_size", "tolerate")},
        ),
    ],
    how: Annotated[dict[str, Any], FromOptions(IndexOptions)],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Image files or folders, or a file of pairs (CSV, JSON, tar)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Encode images or texts once, so that `vladapt search` can find them; or change such an index.

    Example: vladapt index ./photos --out photos.index
    """
    from ..engine.index import index as engine_index
    from ..runs.sections import plural, worded

    recipe = given.recipe()
    words = words_of(recipe)
    made = engine_index(recipe, out, images=images or (), reporter=reporter(words), **how)
    if as_json:
        print_json(vars(made))
        return
    echo_skipped(made.skipped)
    if made.encoded or made.from_store:
        what = "images" if made.encoded + made.from_store >= made.added else "whole images"
        echo(worded(f"Features: {made.encoded} {what} encoded, {made.from_store} from the store.", words))
    for done in _done(made, how):
        echo(worded(done, words))
    segments = f", {made.segments} segments" * (made.segments > 1)
    holds = worded(plural(made.entries, made.holds.removesuffix("s")), words)
    echo(f"Index:  {made.index} ({holds}, {made.kind}, {made.dims} wide{segments})")
    if made.segments > MANY_SEGMENTS:
        echo(f"So many segments slow a search down; join them with: vladapt index --out {made.index} --compact")
    echo_notes(made.notes, words)
    query = shlex.quote(made.query) if made.query else '"what you look for"'
    echo(f"Search: vladapt search {made.index} {query}")
    if made.query:
        echo("Stored features answer the texts of their file and the ids of its images; new ones need the towers.")


def _done(made: Indexed, how: Mapping[str, Any]) -> Iterator[str]:
    """What a change of an index did, in sentences."""
    from ..runs.sections import plural

    what = made.holds.removesuffix("s")
    if how.get("add"):
        there = f"{made.already_there:,} {'was' if made.already_there == 1 else 'were'} there already"
        yield f"Added: {plural(made.added, what)}{f'; {there}' * bool(how.get('only_new'))}."
    if how.get("delete"):
        yield f"Deleted: {plural(made.deleted, what)}; --compact frees the space."
    if how.get("verify"):
        yield "All files are as they were written."


def search(
    index: Annotated[str, typer.Argument(help="A folder that `vladapt index` wrote.")],
    on: Annotated[dict[str, Any], FromUse("search")],
    how: Annotated[dict[str, Any], FromOptions(SearchOptions)],
    many: Annotated[dict[str, Any], FromOptions(QueriesOptions)],
    scored: Annotated[dict[str, Any], FromOptions(EvaluateOptions)],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    text: Annotated[str | None, typer.Option(help="The same as QUERY.")] = None,
    camera: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only results from this camera, where the index knows cameras.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only results with this value. Repeatable.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End with exit code 1 where the best answer to words does not stand out from those to random words.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Search an index by words, by an image, or by both; or by each line of a file, or by the queries of a published
    set, which are scored.

    Example: vladapt search photos.index "a dog on the beach" --html found.html
    """
    from ..engine.search import search as engine_search

    if query is not None and text is not None:
        raise ConfigError("--text: the words are given twice; omit --text or QUERY")
    words = query if text is None else text
    if strict and (scored or many or words is None or how.get("image") is not None):
        raise ConfigError("--strict: looks at the answer to one query of words alone; omit it, or ask with words alone")
    if scored:
        _evaluate(index, words, scored, {**on, **how}, many, _where(where, camera), as_json)
        return
    asked = {"where": _where(where, camera), **on, **how}
    if set(many) == {"out"} and words is None and how.get("image") is None:
        raise ConfigError(f"--out {many['out']}: give words, --image or --queries FILE too")
    if many and set(many) != {"out"}:
        _search_many(index, words, many, asked, as_json)
        return
    result = engine_search(index, words, **many, **asked)
    (_print_result if as_json else _show_result)(result)
    _check_stands_out(result, strict)


def _search_many(index: str, words: str | None, many: dict[str, Any], asked: dict[str, Any], as_json: bool) -> None:
    """Each line of `--queries`, into `--out`."""
    from ..engine.search import search_queries

    if "out" not in many:
        there = next(iter(many))
        raise ConfigError(f"--{there} {many[there]}: give --out FILE too")
    if words is not None:
        raise ConfigError(f"--queries {many['queries']}: holds the queries; omit {words!r}")
    done = search_queries(index, **many, **asked)
    if as_json:
        print_json(vars(done))
    else:
        echo(f"{done.queries:,} queries, {done.hits:,} results: {done.out}")


def _print_result(result: SearchResult) -> None:
    content = {name: value for name, value in vars(result).items() if value or name != "notes"}
    content["hits"] = result.rows()
    content |= {} if content.pop("out") is None else {"out": result.out}
    reranked, among = content.pop("reranked", None), content.pop("among_drawn", None)
    content |= {} if reranked is None else {"reranked": asdict(reranked)}
    content |= {} if among is None else {"among_drawn": {**asdict(among), "stands_out": among.stands_out}}
    print_json(content)


def _show_result(result: SearchResult) -> None:
    from .tables import hits_table

    if result.among_drawn is not None and result.among_drawn.warning:
        echo(result.among_drawn.warning)
    show_table(hits_table(result.hits))
    for note in result.notes:
        echo(note)
    if (again := result.reranked) is not None:
        echo(
            f"The nearest {again.candidates} in {again.first_ms:.1f} ms, ranked again by {again.method} in "
            f"{again.rerank_ms:.1f} ms."
        )
    if result.html:
        echo(f"Page: {result.html}")
    if result.out:
        echo(f"Written: {result.out}")


def _check_stands_out(result: SearchResult, strict: bool) -> None:
    """Raise the error that ends a strict search whose best answer does not stand out, or is not compared."""
    if not strict:
        return
    if result.among_drawn is None:
        why = "holds texts" if result.holds == "texts" else "is not searched by words that are encoded alone"
        raise CapabilityError(f"--strict: {result.index} {why}, so no answer is compared with random ones; omit it")
    if not result.among_drawn.stands_out:
        raise NotAboveChance(f"--strict: {result.among_drawn.warning.rstrip('.')}")


def _evaluate(
    index: str,
    text: str | None,
    scored: dict[str, Any],
    asked: dict[str, Any],
    many: dict[str, Any],
    where: Mapping[str, str],
    as_json: bool,
) -> None:
    from ..engine.search_evaluation import evaluate_queries
    from .tables import composed_table

    if "evaluate" not in scored:
        raise ConfigError(f"--{next(iter(scored))}: is about the queries of a set; give --evaluate FILE too")
    if text is not None or many or where:
        superfluous = repr(text) if text is not None else f"--{next(iter(many))}" if many else "--where"
        raise ConfigError(f"--evaluate {scored['evaluate']}: holds the queries; omit {superfluous}")
    done = evaluate_queries(index, **scored, **asked)
    if as_json:
        print_json({**vars(done), "scores": [vars(score) for score in done.scores]})
        return
    if done.files:
        echo(f"{done.queries:,} queries of {done.set} answered: {', '.join(map(str, done.files))}")
    else:
        show_table(composed_table(done))
    for note in done.notes:
        echo(note)


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
