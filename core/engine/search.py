"""`search`: what an index holds that fits a text, an image, or both."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..backbones.finders import searched
from ..backbones.heads import HeadBackbone, towers_in
from ..backbones.load import load_backbone
from ..contracts.backbone import Backbone
from ..contracts.composition import Composition
from ..contracts.domain import Domain
from ..contracts.families import STORED
from ..contracts.items import Decoded
from ..contracts.options import keywords, options_from, options_of
from ..contracts.recipe import spec_of
from ..contracts.shown import in_short
from ..data.tables import csv_text
from ..errors import CapabilityError, ConfigError, DataError
from ..registry import load_domain
from ..retrieval.above_chance import AmongDrawn, among_drawn, drawn_queries
from ..retrieval.clusters import check_cosine, clustered
from ..retrieval.entries import Entry
from ..retrieval.image_reader import ImageReader
from ..retrieval.index import FAST, TEXTS, Hit, RetrievalIndex
from ..retrieval.page import Asked, write_page
from ..retrieval.wanted import Wanted
from ..runs.sections import errors_worded, words_in
from ..runtime.files import replacing
from ..runtime.reading import json_text
from .options import EngineOptions, SearchOptions
from .queries import (
    OBJECTS,
    EncodedQuery,
    IndexGallery,
    Lines,
    Query,
    QueryEncoder,
    composition_of,
    query_lines,
    search_encoded,
    vocabulary_words,
    weight_of,
)

if TYPE_CHECKING:
    from ..shards import Executor

CANDIDATES = 100
QUERY_FILES = (".jsonl", ".csv")
OF_ONE_QUERY = ("image", "own_group", "cluster", "blur", "html")
ROWS_OF_MEAN = 4096
AMONG = 5
"""Nearest entries among which an image that is in the index itself is looked for."""
UNKNOWN_GROUP = (
    "Nothing tells which patient or other group the image is of, so results may be of the same one; put a table of "
    "file names and patients beside the images, and index them again."
)


def index_words(
    index: str | Path,
    *_: Any,
    domain: Domain | None = None,
    reading: Mapping[str, Any] | None = None,
    **__: Any,
) -> Mapping[str, str]:
    """What the domain of an index calls images."""
    facts = RetrievalIndex.open(index).info.reading
    options = {**(facts.get("options") or {}), **(reading or {})}
    return words_in(domain or facts.get("domain"), facts.get("task"), options)


@dataclass(frozen=True)
class Reranked:
    """Candidates that were ranked again.

    Args:
        method: by which.
        candidates: how many.
        first_ms, rerank_ms: milliseconds to find the candidates, and to rank them again.
    """

    method: str
    candidates: int
    first_ms: float
    rerank_ms: float


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        index: the folder.
        holds: "images" or "texts".
        query: {"text", "image", "weight"}; what was not given is None.
        hits: the best first.
        reranked: how many candidates were ranked again by a method that looks at words and sample together, and how
            long that took; None where the vectors of the index are what is searched by.
        html: the page of pictures that was written, or None.
        out: the file of results that was written, or None.
        among_drawn: whether the best answer to words stands out from those to drawn words; None where it is not asked.
        notes: sentences for the user.
    """

    __repr__ = in_short

    index: Path
    holds: str
    query: dict[str, Any]
    hits: list[Hit]
    html: Path | None = None
    out: Path | None = None
    reranked: Reranked | None = None
    among_drawn: AmongDrawn | None = None
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per hit: rank, score, id, source, decode, captions; where they are known, about and cluster."""
        return _rows_of(self.hits)


def _rows_of(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """As `SearchResult.rows`."""
    return [
        {
            "rank": hit.rank,
            "score": round(hit.score, 6),
            **{name: getattr(hit.entry, name) for name in ("id", "source", "decode", "captions")},
            **({"about": hit.entry.about} if hit.entry.about else {}),
            **({} if hit.cluster is None else {"cluster": hit.cluster}),
        }
        for hit in hits
    ]


@keywords(SearchOptions)
@errors_worded(index_words)
def search(
    index: str | Path,
    text: str | None = None,
    *,
    device: str = "auto",
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reading: Mapping[str, Any] | None = None,
    where: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    **given: Any,
) -> SearchResult:
    """Search an index by a text, an image, or both.

    Args:
        index: a folder that `index` wrote.
        text: what is looked for, in words.
        given: options of `SearchOptions`.
        device: "auto", "cpu", "cuda", ...
        backbone: where the index's backbone is here, if not where the index says; or a module's, given again.
        domain: a domain of your own that is not installed as a plug-in.
        reading: options of the domain's reader, in place of the index's own.
        where: name of what the index knows of its images (camera) -> the value that results have.
        out: a file for the results, .jsonl, .csv, or of a kind that the domain of the index writes.

    Raises:
        ConfigError: an option is not usable. DataError: the index is damaged, or the image cannot be read, or the index
            does not know what `where` or `since` ask for, or `out` cannot be written.
        CapabilityError: another backbone or preprocessing than that of the index.
    """
    asked = options_from(SearchOptions, given, "search")
    _check(text, asked)
    if out is not None:
        _check_out(Path(out), index, domain)
    wanted, composition = Wanted(dict(where or {}), asked.since), composition_of(asked)
    opened, reader, tower, encode = opened_index(index, asked, wanted, composition, device, backbone, domain, reading)
    of_query = encode([Query(text, asked.image)])[0]
    both = text is not None and asked.image is not None
    query = {"text": text, "image": asked.image, "weight": weight_of(composition) if both else None}
    query |= {"compose": composition.name} if asked.compose is not None else {}
    query |= {"where": wanted.values} if wanted.values else {}
    query |= {"since": asked.since} if asked.since is not None else {}
    notes = [f"The image in words: {_listed(of_query.words)}."] if of_query.words else []
    if of_query.entry is not None and not _own_is_wanted(asked, reader):
        own = _known_again(opened, of_query)
        wanted = replace(wanted, other_than=own)
        notes += [] if own.group else [UNKNOWN_GROUP]
    if text is not None and asked.image is None and _scores_pairs(opened, tower):
        hits, reranked = _reranked(opened, tower, text, of_query.factors[0], asked, wanted)
    else:
        _refuse_candidates(opened, asked)
        hits, reranked = search_encoded(opened, [of_query], [wanted], asked.top, asked.refine)[0], None
    among, holds = None, opened.info.holds
    new_words = towers_in(tower).family != STORED
    if new_words and text is not None and asked.image is None and reranked is None and hits and holds != TEXTS:
        best = partial(_best_products, opened, wanted, asked.refine)
        drawn = IndexGallery(opened, tower, drawn_queries(text)).vocabulary()[1]  # stored, as few lengths occur
        among = among_drawn(of_query.factors[0].float(), drawn, best, _mean_row(opened))
    hits = hits if asked.cluster is None else clustered(hits, opened.vectors(hits), asked.cluster)
    result = SearchResult(opened.path, holds, query, hits, reranked=reranked, among_drawn=among, notes=notes)
    if asked.html is not None:
        result.html = Path(asked.html)
        _write_page(result, opened, reader, of_query.picture, asked.blur)
    if out is not None:
        result.out = Path(out)
        result.notes += _write_out(result, Query(text, asked.image), reader)
    return result


def _check_out(out: Path, index: str | Path, domain: Domain | None) -> None:
    """Raise the ConfigError of a file of results of a kind that is not written."""
    reading = RetrievalIndex.open(index).info.reading
    if domain is None and reading.get("domain"):
        domain = load_domain(reading["domain"])
    suffixes = (*QUERY_FILES, *(() if domain is None else domain.hit_files))
    if out.suffix.lower() not in suffixes:
        raise ConfigError(f"--out {out}: give a file that ends in {' or '.join(suffixes)}")


def _write_out(result: SearchResult, query: Query, reader: ImageReader) -> list[str]:
    """Write the results; returns sentences for the user."""
    assert result.out is not None, "a file is asked for"
    if result.out.suffix.lower() not in QUERY_FILES:
        assert reader.domain is not None, "the kind of file is the domain's"
        items, scores = [hit.entry.item() for hit in result.hits], [hit.score for hit in result.hits]
        return reader.domain.write_hits(items, scores, result.out)
    written = _written([(1, query)], [result.hits], result.out, first=True, with_images=query.image is not None)
    with replacing(result.out) as part:
        part.write_text(written, encoding="utf-8", errors="surrogatepass", newline="")
    return []


def _best_products(opened: RetrievalIndex, filters: Wanted, refine: bool, queries: Tensor) -> Tensor:
    """(Q,) of unit queries (Q, D) the highest dot product with a row that is wanted, minus infinity without one."""
    scores, places = opened.nearest(queries, 1, filters, refine)
    return torch.from_numpy(np.where(places < 0, -np.inf, scores)[:, 0])


def _mean_row(opened: RetrievalIndex) -> Tensor:
    """(D,) of all rows; where they are many, of some of them, evenly spaced."""
    count = sum(segment.count for segment in opened.segments)
    places = np.linspace(0, count - 1, min(count, ROWS_OF_MEAN)).astype(np.int64)
    return torch.from_numpy(opened.rows(places).mean(axis=0))


@dataclass
class SearchedQueries:
    """What a search for many texts wrote.

    Attributes:
        index: the folder.
        out: the file of the results.
        queries: how many texts there were.
        hits: how many results in all.
    """

    index: Path
    out: Path
    queries: int = 0
    hits: int = 0
    seconds: float = 0.0


@keywords(SearchOptions, EngineOptions)
@errors_worded(index_words)
def search_queries(
    index: str | Path,
    queries: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reading: Mapping[str, Any] | None = None,
    where: Mapping[str, str] | None = None,
    **given: Any,
) -> SearchedQueries:
    """Search an index for each line of a text file; some hundred lines are encoded and searched for at once, in all
    segments one after the other, or side by side by processes or an engine: with the same results.

    Args:
        index: a folder that `index` wrote.
        queries: a text file, one query per line, or .jsonl, an object with "image" and "text" per line; empty lines are
            left out.
        out: file for the results: .jsonl has one object per query, .csv one row per result.
        given: options of `SearchOptions` and `EngineOptions`.
        device, backbone, domain, reading, where: as of `search`.

    Raises:
        ConfigError: an option is not usable, or is about a single query. DataError: the index is damaged, the file of
            queries cannot be read, or `out` not be written.
        CapabilityError: another backbone or preprocessing than that of the index.
    """
    started = time.monotonic()
    names = {each.name for each in options_of(EngineOptions)}
    engine = options_from(EngineOptions, {name: given.pop(name) for name in names & given.keys()}, "search")
    asked, out = options_from(SearchOptions, given, "search"), Path(out)
    executor = engine.executor("cpu", lambda line: None) if engine.is_elsewhere else None
    for name in OF_ONE_QUERY:
        if getattr(asked, name) != getattr(SearchOptions, name):
            raise ConfigError(f"--{name.replace('_', '-')}: is about one query; omit it, or --queries")
    if out.suffix.lower() not in QUERY_FILES:
        raise ConfigError(f"--out {out}: give a file that ends in {' or '.join(QUERY_FILES)}")
    _check_counts(asked)
    done, wanted = SearchedQueries(Path(index), out), Wanted(dict(where or {}), asked.since)
    composition, file = composition_of(asked), Path(queries)
    if not sum(map(len, query_lines(file))):  # each line is looked at before the first is searched for
        raise DataError(f"--queries {queries}: empty; write one text per line")
    if not (with_images := file.suffix.lower() == OBJECTS) and (named := _about_images(asked)):
        raise ConfigError(f"--{named}: is about images; omit it, or name an image per line of --queries FILE{OBJECTS}")
    opened, reader, tower, encode = opened_index(index, asked, wanted, composition, device, backbone, domain, reading)
    pairs = _scores_pairs(opened, tower) and not with_images
    if not pairs:
        _refuse_candidates(opened, asked)
    elif executor is not None:
        raise CapabilityError(f"{opened.path}: words and clips are ranked together by one process; omit --processes")
    batches = ((lines, encode([query for _, query in lines])) for lines in query_lines(file))
    results: Iterator[tuple[Lines, list[list[Hit]]]]
    if pairs and isinstance(tower, HeadBackbone):
        results = ((lines, _reranked_all(opened, tower, lines, rows, asked, wanted)) for lines, rows in batches)
    elif executor is None:
        only = partial(_wanted_of, opened, wanted, _own_is_wanted(asked, reader))
        results = (
            (lines, search_encoded(opened, rows, [only(row) for row in rows], asked.top, asked.refine))
            for lines, rows in batches
        )
    else:
        results = _side_by_side(opened, executor, file, batches, asked, wanted, out)
    with replacing(out) as part, part.open("w", encoding="utf-8", errors="surrogatepass", newline="") as written:
        for lines, hits in results:
            written.write(_written(lines, hits, out, first=done.queries == 0, with_images=with_images))
            done.queries, done.hits = done.queries + len(lines), done.hits + sum(map(len, hits))
    done.seconds = round(time.monotonic() - started, 3)
    return done


def _about_images(asked: SearchOptions) -> str:
    """An option that only queries with an image use, where one is given."""
    return next((name for name in ("weight", "compose", "vocabulary") if getattr(asked, name) is not None), "")


def _wanted_of(opened: RetrievalIndex, filters: Wanted, own_is_wanted: bool, query: EncodedQuery) -> Wanted:
    """The filter of a query: what is of its image's own group may not be wanted."""
    return filters if own_is_wanted or query.entry is None else replace(filters, other_than=_known_again(opened, query))


def _reranked_all(
    opened: RetrievalIndex,
    tower: HeadBackbone,
    lines: Lines,
    rows: Sequence[EncodedQuery],
    asked: SearchOptions,
    filters: Wanted,
) -> list[list[Hit]]:
    return [
        _reranked(opened, tower, query.text or "", row.factors[0], asked, filters)[0]
        for (_, query), row in zip(lines, rows)
    ]


def _side_by_side(
    opened: RetrievalIndex,
    executor: Executor,
    queries: Path,
    batches: Iterator[tuple[Lines, list[EncodedQuery]]],
    asked: SearchOptions,
    filters: Wanted,
    out: Path,
) -> Iterator[tuple[Lines, list[list[Hit]]]]:
    """The results of all lines, of tasks that search groups of segments; what they write is removed at the end."""
    from ..retrieval.side_by_side import SearchStage, merged
    from ..shards import Job, drive
    from .shard_jobs import place_of_shards

    folder = out.absolute().with_name(f".{out.name}.work")
    place, top = place_of_shards(folder), min(asked.top, len(opened))
    factors = [each.factors for _, some in batches for each in some]
    if any(len(each) > 1 for each in factors):
        raise CapabilityError(f"{opened.path}: --compose {asked.compose} is searched by one process; omit --processes")
    rows = opened.checked(torch.cat(factors))
    np.save(folder / "queries.npy", rows)
    stage = SearchStage.of(opened, folder / "queries.npy", top, filters, asked.refine)
    manifest = stage.listed(place, len(rows), len(opened.segments))
    job = Job.of(stage, manifest, place, shard_size=1, batch_size=1)
    summary = drive(job, executor)
    if summary.aside:
        raise DataError(f"{opened.path}: parts that could not be searched: {next(iter(summary.aside.values()))}")
    lines = (line for some in query_lines(queries) for line in some)
    for scores, places in merged(stage, opened, rows, job.work.place):
        yield list(islice(lines, len(scores))), opened.hits(scores, places)
    shutil.rmtree(folder)


def _written(lines: Lines, hits: Sequence[Sequence[Hit]], out: Path, first: bool, with_images: bool) -> str:
    """The results of some queries as text of the file `out`.

    Args:
        hits: of each query.
        first: whether they are the first of the file, which begins with the names of the columns in a CSV file.
        with_images: whether queries name images.
    """
    asked = [{"query": query.text, **({"image": query.image} if with_images else {})} for _, query in lines]
    if out.suffix.lower() == ".jsonl":
        objects = (
            {"line": number, **query, "hits": _rows_of(some)} for (number, _), query, some in zip(lines, asked, hits)
        )
        return "".join(f"{json_text(each)}\n" for each in objects)
    rows = (
        [
            number,
            *(value or "" for value in query.values()),
            hit.rank,
            f"{hit.score:.6f}",
            hit.entry.id,
            hit.entry.source or "",
            " | ".join(hit.entry.captions),
        ]
        for (number, _), query, some in zip(lines, asked, hits)
        for hit in some
    )
    text = csv_text(("line", *asked[0], "rank", "score", "id", "source", "captions"), rows)
    return text if first else text.partition("\n")[2]


def opened_index(
    index: str | Path,
    asked: SearchOptions,
    filters: Wanted,
    composition: Composition,
    device: str,
    backbone: str | Backbone | None,
    domain: Domain | None,
    reading: Mapping[str, Any] | None,
) -> tuple[RetrievalIndex, ImageReader, Backbone, QueryEncoder]:
    """The index, what reads its images, its backbone, and what makes rows of queries; all that can be refused is
    refused before the backbone is loaded."""
    opened = RetrievalIndex.open(index)
    words = vocabulary_words(asked.vocabulary) if composition.by_vocabulary else ()
    if composition.by_vocabulary and opened.info.holds == TEXTS:
        raise CapabilityError(f"{opened.path}: holds texts; --compose {composition.name} needs an index of images")
    if filters:
        filters.check(opened.info, opened.path)
    if not asked.refine and not opened.is_quantised:
        raise ConfigError(f"--refine no: {opened.path} is of kind {opened.info.kind}, which has no codes; omit it")
    made_by = opened.info.backbone
    reader = opened.reader(domain, reading)
    spec = spec_of(backbone) or made_by.spec
    towers = load_backbone(spec, device, made_by.image_size, reader.channels)
    if made_by.get(FAST):
        towers.decode_fast()
    tower = searched(towers)
    opened.check_backbone(tower)
    opened.check_transform(reader, tower)
    encode = QueryEncoder(opened, reader, tower, composition, IndexGallery(opened, tower, words))
    return opened, reader, tower, encode


def _scores_pairs(opened: RetrievalIndex, tower: Backbone) -> bool:
    """Whether words are scored with samples, and not vectors with vectors alone."""
    return isinstance(tower, HeadBackbone) and tower.head.pairwise and opened.info.holds != TEXTS


def _refuse_candidates(opened: RetrievalIndex, asked: SearchOptions) -> None:
    if asked.candidates is not None:
        raise ConfigError(f"--candidates {asked.candidates}: {opened.path} is searched by vectors alone here; omit it")


def _reranked(
    opened: RetrievalIndex, tower: HeadBackbone, text: str, vector: Tensor, asked: SearchOptions, wanted: Wanted
) -> tuple[list[Hit], Reranked]:
    """The candidates nearest to the words, in the order of the head's own scores."""
    started = time.perf_counter()
    candidates = opened.search(
        vector, max(asked.top, CANDIDATES if asked.candidates is None else asked.candidates), wanted
    )
    ranked_at = time.perf_counter()
    scores = tower.head.pair_scores(tower.base, *opened.parts(candidates), [text])[:, 0].tolist()
    order = sorted(range(len(candidates)), key=lambda place: (-scores[place], place))[: asked.top]
    hits = [replace(candidates[place], rank=rank, score=scores[place]) for rank, place in enumerate(order, start=1)]
    took = [round(1000 * seconds, 3) for seconds in (ranked_at - started, time.perf_counter() - ranked_at)]
    return hits, Reranked(tower.head.name, len(candidates), *took)


def _own_is_wanted(asked: SearchOptions, reader: ImageReader) -> bool:
    """Whether results may be of the query image's own group."""
    return asked.own_group if asked.own_group is not None else not (reader.domain and reader.domain.searches_others)


def _known_again(opened: RetrievalIndex, query: EncodedQuery) -> Entry:
    """The image of a query; where it does not tell its group, that of its own entry in the index."""
    image = query.entry
    assert image is not None and query.feature is not None, "a query with an image"
    if image.group:
        return image
    same = (hit.entry for hit in opened.search(query.feature, AMONG) if hit.entry.source == image.source)
    return replace(image, group=next((entry.group for entry in same), ""))


def _check(text: str | None, asked: SearchOptions) -> None:
    if text is not None and not text.strip():
        raise ConfigError("the query is empty; give a text, --image FILE, or both")
    if text is None and asked.image is None:
        raise ConfigError("nothing to search for: give a text, --image FILE, or both")
    if (named := _about_images(asked)) and (text is None or asked.image is None):
        raise ConfigError(f"--{named} {getattr(asked, named)}: mixes a text and an image; give both, or omit it")
    _check_counts(asked)
    if asked.own_group is not None and asked.image is None:
        raise ConfigError("--own-group: is about the group of an image; give --image too, or omit it")
    if (html := asked.html) is not None and Path(html).is_dir():
        raise ConfigError(f"--html {html}: a folder; give a file to write, for instance {Path(html) / 'found.html'}")
    if asked.blur and html is None:
        raise ConfigError("--blur: changes only the page of results; give --html too, or omit it")
    if asked.cluster is not None:
        check_cosine(asked.cluster)


def _check_counts(asked: SearchOptions) -> None:
    for name, count in (("candidates", asked.candidates), ("top", asked.top)):
        if count is not None and count < 1:
            raise ConfigError(f"--{name} {count}: give 1 or more")


def _listed(words: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{word} ({weight:.2f})" for word, weight in words)


def _write_page(
    result: SearchResult, opened: RetrievalIndex, reader: ImageReader, picture: Decoded | None, blur: bool
) -> None:
    sources: Sequence[str] = [hit.entry.source for hit in result.hits if hit.entry.source]
    load = reader.loader(sources, opened.info.made_of)
    text, image, weight = (result.query[key] for key in ("text", "image", "weight"))
    only = {**result.query.get("where", {}), **({"since": since} if (since := result.query.get("since")) else {})}
    asked = Asked(text or "", image or "", picture, weight, only, result.query.get("compose", ""))
    assert result.html is not None, "a page is asked for"
    write_page(result.html, asked, result.hits, opened.info, load, blur=blur)
