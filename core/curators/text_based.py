"""DataComp's text-based filter: captions with a word of ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..contracts.curator import Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import CapabilityError, DataError
from ._captions import CaptionFilter, word_list, word_table


@dataclass(eq=False, kw_only=True)
class TextBased(CaptionFilter):
    """DataComp: In search of the next generation of multimodal datasets (2023, arXiv 2304.14108), text-based filtering:
    an English caption in which the first WordNet synset of at least one word is a class of ImageNet-21k.

    Words are what white space divides: "cat," with its comma is none. Synsets come from a table, where a word is looked
    up as it stands and then in small letters, or from NLTK's WordNet, which also takes "dogs" for "dog". Only the first
    synset of a word counts, its most frequent sense.

    `entities` has a WordNet offset per line; `synsets` word, tab, offset, or JSON.

    Example:
        >>> build_curator("text-based", entities="imagenet21k.txt", synsets="synsets.json").decide_all(pairs).keep.sum()
        98
    """

    stage: ClassVar[str] = "filter"

    entities: str = option(help="file of WordNet offsets, one per line, such as n02084071 or 2084071")
    synsets: str = option("", "file of words and the offset of their first synset; else NLTK's WordNet")

    def check(self, columns: Collection[str]) -> None:
        super().check(columns)
        _ = self._entities, self._first_synset

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        self.check(pairs.columns)
        return Survey({"entities": np.array(sorted(self._entities))})

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        entities, first = frozenset(survey.whole["entities"].tolist()), self._first_synset
        texts, checked = pairs.strings("text"), dict[str, bool]()
        without = np.array([not has_entity(text, first, entities, checked) for text in texts], bool)
        return Decision.of(
            {
                self.rule_of_language: self.in_another_language(pairs, texts),
                "no word whose first synset is in the list": without,
            }
        )

    @cached_property
    def _entities(self) -> frozenset[int]:
        return frozenset(offset_of(each, self.entities) for each in word_list(self.entities, "WordNet offsets"))

    @cached_property
    def _first_synset(self) -> Callable[[str], int | None]:
        return _of_table(self.synsets) if self.synsets else _of_nltk()


def has_entity(
    text: str, first: Callable[[str], int | None], entities: frozenset[int], checked: dict[str, bool]
) -> bool:
    """Whether the first synset of a word of a text is an entity.

    Args:
        first: word -> offset of its first synset.
        checked: word -> whether it is; grows.
    """
    for word in text.split():
        if word not in checked:
            checked[word] = first(word) in entities
        if checked[word]:
            return True
    return False


def offset_of(value: object, place: str) -> int:
    """Of "n02084071", "2084071", 2084071, or the first of a list of such.

    Raises:
        DataError: it is none.
    """
    first = value[0] if isinstance(value, list) and value else value
    digits = str(first).removeprefix("n")
    if not digits.isdecimal():
        raise DataError(f"{place}: '{first}' is no WordNet offset; write n02084071 or 2084071")
    return int(digits)


def _of_table(path: str) -> Callable[[str], int | None]:
    table = {word: offset_of(value, path) for word, value in word_table(path, "words and offsets").items()}
    return lambda word: table.get(word, table.get(word.lower()))


def _of_nltk() -> Callable[[str], int | None]:
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        raise CapabilityError(
            "text-based: give synsets=, a file of words and the offsets of their first synsets; NLTK with its WordNet "
            "would do too, but is not installed here"
        ) from None

    def first(word: str) -> int | None:
        synsets = wordnet.synsets(word)
        return synsets[0].offset() if synsets else None

    return first
