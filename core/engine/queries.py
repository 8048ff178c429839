"""What is looked for in an index, as rows: words, an image, or both made one; a single query, or a file of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones.heads import towers_in
from ..contracts.backbone import Backbone
from ..contracts.composition import Composition, ImagesAndWords
from ..contracts.families import STORED
from ..contracts.features import PROJECTED
from ..contracts.items import Decoded
from ..contracts.options import options_of
from ..errors import ConfigError, DataError
from ..features.extract import encoder
from ..features.store import FeatureStore
from ..registry.build import build_composition
from ..retrieval.columns import rows_with
from ..retrieval.entries import Entry
from ..retrieval.image_reader import ImageReader
from ..retrieval.index import Hit, RetrievalIndex, check_finite, mixed
from ..retrieval.wanted import Wanted
from ..runtime.reading import parse_json
from .index import numbered_lines
from .options import SearchOptions

SUM, WEIGHT = "sum", "weight"
OBJECTS = ".jsonl"
QUERIES_AT_ONCE, PICTURES_AT_ONCE = 256, 64
"""Lines of a file of texts, and of one that names images, that are searched for together."""
TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Query:
    """Words, the file of an image, or both."""

    text: str | None = None
    image: str | None = None


Lines = list[tuple[int, Query]]


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """Args:
    factors: (F, D): the score of an entry is the product of its dot products with these.
    entry: what the image would be as an entry, with its unit feature and its pixels; None where there is none.
    words: (word, weight) of what the image was put into, where it was.
    """

    factors: Tensor
    entry: Entry | None = None
    feature: Tensor | None = None
    picture: Decoded | None = None
    words: tuple[tuple[str, float], ...] = ()


def composition_of(asked: SearchOptions) -> Composition:
    """What `--compose` and `--weight` ask for.

    Raises:
        UnknownNameError, ConfigError: it is not usable, or does not use a weight or a vocabulary that is given.
    """
    named = asked.compose or SUM
    composition = build_composition(named)
    if asked.weight is not None:
        if weight_of(composition) is None:
            raise ConfigError(f"--weight {asked.weight}: --compose {composition.name} has no weight; omit it")
        if not 0 <= asked.weight <= 1:
            raise ConfigError(f"--weight {asked.weight}: give the text's share, from 0 (image only) to 1 (text only)")
        composition = build_composition(named, weight=asked.weight)
    if asked.vocabulary is not None and not composition.by_vocabulary:
        raise ConfigError(f"--vocabulary {asked.vocabulary}: --compose {composition.name} does not use words; omit it")
    return composition


def weight_of(composition: Composition) -> float | None:
    """Its share of the words, where it has one."""
    named = (each.name for each in options_of(type(composition)))
    return getattr(composition, WEIGHT) if WEIGHT in named else None


def vocabulary_words(file: str | None) -> list[str]:
    """The words of a file, one per line, each once; without one the names of ImageNet's classes.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    if file is None:
        from ..backbones.embedded import class_names

        return list(dict.fromkeys(class_names()))
    words = list(dict.fromkeys(text for lines in numbered_lines(Path(file), "--vocabulary") for _, text in lines))
    if not words:
        raise DataError(f"--vocabulary {file}: empty; write one word per line")
    return words


@dataclass
class IndexGallery:
    """The images of an index, its text tower and a vocabulary, for compositions.

    Args:
        words: of the vocabulary; their features are stored, and are made where a composition asks for them.
    """

    opened: RetrievalIndex
    tower: Backbone
    words: Sequence[str] = ()
    _features: Tensor | None = field(default=None, init=False)

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        scores, places = self.opened.nearest(queries, count)
        rows = self.opened.rows(places.clip(0).ravel()).reshape(*places.shape, -1)  # (Q, K, D)
        return torch.from_numpy(np.where(places < 0, -np.inf, scores)), torch.from_numpy(rows)

    def encode(self, texts: Sequence[str]) -> Tensor:
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        with torch.inference_mode():
            some = [list(distinct)[start : start + TEXTS_AT_ONCE] for start in range(0, len(distinct), TEXTS_AT_ONCE)]
            rows = torch.cat([self.tower.encode_text(each).float().cpu() for each in some])
        return F.normalize(rows, dim=-1)[[distinct[text] for text in texts]]

    def vocabulary(self) -> tuple[Sequence[str], Tensor]:
        if self._features is None:
            stored = not self.tower.of_parts
            rows = FeatureStore().text_features(self.tower, self.words) if stored else self.encode(self.words)
            self._features = F.normalize(rows.float(), dim=-1)
        return self.words, self._features


@dataclass
class QueryEncoder:
    """Queries of one index.

    Args:
        composition: what makes one of an image and words.
    """

    opened: RetrievalIndex
    reader: ImageReader
    tower: Backbone
    composition: Composition
    gallery: IndexGallery

    def __call__(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        """Raises:
        DataError: an image cannot be read, or a feature is not finite.
        """
        texts = iter(self._of_texts([query.text for query in queries if query.text is not None]))
        of_text = [None if query.text is None else next(texts) for query in queries]
        images = iter(self.of_images([query.image for query in queries if query.image is not None]))
        of_image = [(None, None, None) if query.image is None else next(images) for query in queries]
        both = [place for place, query in enumerate(queries) if query.text is not None and query.image is not None]
        composed, words = self._composed([queries[i].text for i in both], *self._rows_of(both, of_text, of_image))
        factors, words_of = dict(zip(both, composed)), dict(zip(both, words))
        return [
            EncodedQuery(
                factors[place] if place in factors else mixed(text, feature)[None],
                entry,
                None if feature is None else mixed(None, feature),
                picture,
                words_of.get(place, ()),
            )
            for place, (text, (entry, feature, picture)) in enumerate(zip(of_text, of_image))
        ]

    def _rows_of(self, both: Sequence[int], of_text: Sequence[Any], of_image: Sequence[Any]) -> tuple[list, list]:
        return [of_image[place][1] for place in both], [of_text[place] for place in both]

    def _composed(self, texts: Sequence[Any], images: Sequence[Tensor], words: Sequence[Tensor]) -> tuple[Any, Any]:
        if not texts:
            return (), ()
        of_image, of_text = torch.stack(list(images)), torch.stack(list(words))
        check_finite(of_text, of_image)
        composed = self.composition.compose(
            ImagesAndWords(of_image, of_text, [(text,) for text in texts]), self.gallery
        )
        return composed.factors, composed.words

    def _of_texts(self, texts: list[str]) -> Tensor | tuple[()]:
        """(n, D)."""
        if not texts:
            return ()
        with torch.inference_mode():
            return self.tower.encode_text(texts).cpu()

    def of_images(self, files: Sequence[str]) -> list[tuple[Entry, Tensor, Decoded | None]]:
        """Entry, feature (D,) and pixels of each; of an index of stored features files are ids of its images, without
        pixels.

        Raises:
            DataError: one cannot be read, or is not there.
        """
        if towers_in(self.tower).family == STORED:
            return [(*self._indexed(name), None) for name in files]
        encode, read = encoder(self.tower, PROJECTED, None), []
        for file in files:
            data, picture = self.reader.one(file, self.tower.least_side)
            pixels = self.reader.transform(self.tower, data)(picture)
            read.append((Entry.of(data.items[0]), pixels, picture))
        if len({pixels.shape for _, pixels, _ in read}) == 1:
            features: Any = encode(torch.stack([pixels for _, pixels, _ in read])).cpu()  # (n, D)
        else:
            features = [encode(pixels[None])[0].cpu() for _, pixels, _ in read]
        return [(entry, feature, picture) for (entry, _, picture), feature in zip(read, features)]

    def _indexed(self, name: str) -> tuple[Entry, Tensor]:
        """An image of the index by its id, and its row (D,)."""
        opened = self.opened
        for segment in opened.segments:
            rows = np.flatnonzero(rows_with(segment.columns, segment.entries, [name]) & segment.live)
            if len(rows):
                place = np.array([segment.first + rows[0]], np.int64)
                return opened.entries[int(place[0])], torch.from_numpy(opened.rows(place))[0]
        first = next(iter(opened.entries)).id
        raise DataError(
            f"--image {name}: not among the {len(opened)} images of {opened.path}, which holds stored features; give "
            f"the id of one, for instance {first} (a new image needs the image tower)"
        )


def search_encoded(
    opened: RetrievalIndex, queries: Sequence[EncodedQuery], filters: Sequence[Wanted], top: int, refine: bool
) -> list[list[Hit]]:
    """The results of each query; those whose filter is the same are searched for together.

    Args:
        filters: filter of each; they differ in `other_than` alone.
    """
    alone = [[place] for place, each in enumerate(filters) if each.other_than is not None]
    common = [place for place, each in enumerate(filters) if each.other_than is None]
    counts = {len(queries[place].factors) for place in common}
    hits: dict[int, list[Hit]] = {}
    for places in [*alone, *([place for place in common if len(queries[place].factors) == n] for n in sorted(counts))]:
        factors, only = torch.stack([queries[place].factors for place in places]), filters[places[0]]  # (q, F, D)
        if factors.shape[1] == 1:
            some = opened.search_many(factors[:, 0], top, only, refine)
        else:
            products = np.stack([opened.checked(each) for each in factors])
            some = opened.hits(*opened.best_products(products, min(top, len(opened)), only))
        hits |= dict(zip(places, some))
    return [hits[place] for place in range(len(queries))]


def query_lines(file: Path) -> Iterator[Lines]:
    """(line number, query) of a file, some at a time: of .jsonl objects with "image", "text" or both, the file of an
    image relative to this one's folder; of any other file lines of words.

    Raises:
        DataError: the file cannot be read, a line is no query, or its image is not there.
    """
    if file.suffix.lower() != OBJECTS:
        for lines in numbered_lines(file, "--queries", QUERIES_AT_ONCE):
            yield [(number, Query(text)) for number, text in lines]
        return
    for lines in numbered_lines(file, "--queries", PICTURES_AT_ONCE):
        yield [(number, _query(parse_json(f"{file} line {number}", text), file, number)) for number, text in lines]


def _query(value: Any, file: Path, number: int) -> Query:
    text, image = (value.get("text"), value.get("image")) if isinstance(value, Mapping) else (None, None)
    if not all(each is None or (isinstance(each, str) and each.strip()) for each in (text, image)) or not (
        text or image
    ):
        raise DataError(
            f'{file} line {number}: no query; write {{"image": "FILE", "text": "WORDS"}}, or one of the two'
        )
    place = None if image is None else file.parent / image
    if place is not None and not place.exists():
        raise DataError(f"{file} line {number}: {place} is not there; correct the line, or restore the image")
    return Query(text, None if place is None else str(place))
