"""`search`: what an index holds that fits a text, an image, or both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.finders import searched
from ..backbones.heads import HeadBackbone
from ..backbones.load import load_backbone
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.features import PROJECTED
from ..contracts.items import Decoded
from ..contracts.options import keywords, options_from
from ..contracts.recipe import spec_of
from ..contracts.shown import in_short
from ..errors import CapabilityError, ConfigError
from ..features.extract import encoder
from ..features.table import transform_spec
from ..retrieval.clusters import check_cosine, clustered
from ..retrieval.entries import Entry
from ..retrieval.image_reader import ImageReader
from ..retrieval.index import Hit, RetrievalIndex, mixed
from ..retrieval.page import Asked, write_page
from ..retrieval.wanted import Wanted
from .index import TEXTS
from .options import SearchOptions

WEIGHT = 0.5
CANDIDATES = 100
AMONG = 5
"""Nearest entries among which an image that is in the index itself is looked for."""
UNKNOWN_GROUP = (
    "Nothing tells which patient or other group the image is of, so results may be of the same one; put a table of "
    "file names and patients beside the images, and index them again."
)


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
        notes: sentences for the user.
    """

    __repr__ = in_short

    index: Path
    holds: str
    query: dict[str, Any]
    hits: list[Hit]
    html: Path | None = None
    reranked: Reranked | None = None
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per hit: rank, score, id, source, decode, captions; where they are known, about and cluster."""
        return [
            {
                "rank": hit.rank,
                "score": round(hit.score, 6),
                **{name: getattr(hit.entry, name) for name in ("id", "source", "decode", "captions")},
                **({"about": hit.entry.about} if hit.entry.about else {}),
                **({} if hit.cluster is None else {"cluster": hit.cluster}),
            }
            for hit in self.hits
        ]


@keywords(SearchOptions)
def search(
    index: str | Path,
    text: str | None = None,
    *,
    device: str = "auto",
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reading: Mapping[str, Any] | None = None,
    where: Mapping[str, str] | None = None,
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

    Raises:
        ConfigError: an option is not usable. DataError: the index is damaged, or the image cannot be read, or the index
            does not know what `where` or `since` ask for.
        CapabilityError: another backbone or preprocessing than that of the index.
    """
    asked = options_from(SearchOptions, given, "search")
    _check(text, asked)
    opened, wanted = RetrievalIndex.open(index), Wanted(dict(where or {}), asked.since)
    if wanted:
        wanted.check(opened.info, opened.path)
    made_by = opened.info["backbone"]
    reader = opened.reader(domain, reading)
    tower = searched(
        load_backbone(spec_of(backbone) or made_by["spec"], device, made_by.get("image_size"), reader.channels)
    )
    opened.check_backbone(tower)
    _check_transform(opened, reader, tower)
    data, picture = (None, None) if asked.image is None else reader.one(asked.image)
    weight = WEIGHT if asked.weight is None else asked.weight
    of_text, of_image = None if text is None else _encoded_text(tower, text), None
    if picture is not None:
        pixels = reader.transform(tower, data)(picture)
        of_image = encoder(tower, PROJECTED, None)(pixels[None])[0].cpu()  # (D,)
    vector = mixed(of_text, of_image, weight)
    query = {"text": text, "image": asked.image, "weight": weight if text is not None and picture is not None else None}
    query |= {"where": wanted.values} if wanted.values else {}
    query |= {"since": asked.since} if asked.since is not None else {}
    notes = []
    if data is not None and not _own_is_wanted(asked, reader):
        own = _known_again(opened, Entry.of(data.items[0]), mixed(None, of_image))
        wanted = replace(wanted, other_than=own)
        notes += [] if own.group else [UNKNOWN_GROUP]
    together = isinstance(tower, HeadBackbone) and tower.head.pairwise and opened.info["holds"] != TEXTS
    if together and text is not None and picture is None:
        hits, reranked = _reranked(opened, tower, text, vector, asked, wanted)
    elif asked.candidates is not None:
        raise ConfigError(f"--candidates {asked.candidates}: {opened.path} is searched by vectors alone here; omit it")
    else:
        hits, reranked = opened.search(vector, asked.top, wanted), None
    hits = hits if asked.cluster is None else clustered(hits, opened.vectors(hits), asked.cluster)
    result = SearchResult(opened.path, opened.info["holds"], query, hits, reranked=reranked, notes=notes)
    if asked.html is not None:
        result.html = Path(asked.html)
        _write_page(result, opened, reader, picture, asked.blur)
    return result


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


def _known_again(opened: RetrievalIndex, image: Entry, feature: Tensor) -> Entry:
    """The image of a query; where it does not tell its group, that of its own entry in the index."""
    if image.group:
        return image
    same = (hit.entry for hit in opened.search(feature, AMONG) if hit.entry.source == image.source)
    return replace(image, group=next((entry.group for entry in same), ""))


def _check(text: str | None, asked: SearchOptions) -> None:
    weight = asked.weight
    if text is not None and not text.strip():
        raise ConfigError("the query is empty; give a text, --image FILE, or both")
    if text is None and asked.image is None:
        raise ConfigError("nothing to search for: give a text, --image FILE, or both")
    if weight is not None and (text is None or asked.image is None):
        raise ConfigError(f"--weight {weight}: mixes a text and an image; give both, or omit it")
    if weight is not None and not 0 <= weight <= 1:
        raise ConfigError(f"--weight {weight}: give the text's share, from 0 (image only) to 1 (text only)")
    if asked.candidates is not None and asked.candidates < 1:
        raise ConfigError(f"--candidates {asked.candidates}: give 1 or more")
    if asked.own_group is not None and asked.image is None:
        raise ConfigError("--own-group: is about the group of an image; give --image too, or omit it")
    if asked.top < 1:
        raise ConfigError(f"--top {asked.top}: give 1 or more")
    if (html := asked.html) is not None and Path(html).is_dir():
        raise ConfigError(f"--html {html}: a folder; give a file to write, for instance {Path(html) / 'found.html'}")
    if asked.blur and html is None:
        raise ConfigError("--blur: changes only the page of results; give --html too, or omit it")
    if asked.cluster is not None:
        check_cosine(asked.cluster)


def _check_transform(opened: RetrievalIndex, reader: ImageReader, backbone: Backbone) -> None:
    made_with = (opened.info.get("reading") or {}).get("transform")
    if opened.info["holds"] != TEXTS and made_with != transform_spec(reader.transform(backbone)):
        raise CapabilityError(
            f"{opened.path}: its images were preprocessed differently from this version; make the index again"
        )


def _encoded_text(backbone: Backbone, text: str) -> Tensor:
    with torch.inference_mode():
        return backbone.encode_text([text])[0].cpu()  # (D,)


def _write_page(
    result: SearchResult, opened: RetrievalIndex, reader: ImageReader, picture: Decoded | None, blur: bool
) -> None:
    sources: Sequence[str] = [hit.entry.source for hit in result.hits if hit.entry.source]
    load = reader.loader(sources, opened.info.get("made_of") or ())
    text, image, weight = (result.query[key] for key in ("text", "image", "weight"))
    only = {**result.query.get("where", {}), **({"since": since} if (since := result.query.get("since")) else {})}
    asked = Asked(text or "", image or "", picture, WEIGHT if weight is None else weight, only)
    write_page(result.html, asked, result.hits, opened.info, load, blur=blur)
