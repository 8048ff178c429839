"""Filters of Conceptual Captions: sizes of images, words of captions, and words that name what an image shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, ClassVar
from zlib import crc32

import numpy as np

from ..contracts.curator import TEXT, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import DataError
from ..runtime.process import need_package
from ._captions import CaptionFilter, table_of

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
SEPARATORS = re.compile(r"\s*[,;|]\s*")
NOUN, DETERMINER, PREPOSITION = ("NOUN", "PROPN"), ("DET",), ("ADP",)
BUCKETS = 2**23
"""Of hashes of words: 64 MB of counts."""
BOILERPLATE = ("click to enlarge picture", "stock photo", "embedded image permalink", "profile photo")


@dataclass(frozen=True)
class Rules:
    """What a set asked for.

    Args:
        side: both sides of an image are longer, in pixels.
        aspect: the longer side is at most this many times the other.
        words: fewest and most words of a caption.
        repetition: largest share of words that stood in the caption before.
        rare: a word that occurs less often in the pool is rare.
        tags: of each at least one word, any of its parts of speech.
        boilerplate: beginnings of captions that say nothing of the image.
    """

    side: int
    aspect: float
    words: tuple[int, int]
    repetition: float
    rare: int
    tags: Mapping[str, tuple[str, ...]]
    boilerplate: tuple[str, ...] = ()


RULES = {
    "cc12m": Rules(400, 2.5, (3, 256), 0.2, 20, {"noun": NOUN, "determiner": DETERMINER}),
    "cc3m": Rules(
        400,
        2.0,
        (1, 256),
        1.0,
        5,
        {"noun": NOUN, "determiner": DETERMINER, "preposition": PREPOSITION},
        BOILERPLATE,
    ),
}


@dataclass(eq=False, kw_only=True)
class CC12M(CaptionFilter):
    """Conceptual 12M: Pushing Web-Scale Image-Text Pre-Training To Recognize Long-Tail Visual Concepts (2021, arXiv
    2102.08981), and Conceptual Captions (2018, ACL P18-1238), whose filters it relaxed.

    CC12M: both sides of an image longer than 400 pixels, one at most 2.5 times the other; an English caption of 3 to
    256 words, at most a fifth of them repeated, none of them rare (fewer than 20 times in the pool); a noun and a
    determiner; a word of the caption names a label of the image. CC3M: at most 2 times, fewer than 5 times, a
    preposition too, and no caption that begins like "stock photo".

    Words are compared in small letters, and a word with a digit is never rare. Nouns, determiners and prepositions need
    a pipeline of spaCy, labels a column that an image tagger wrote; without them these rules are left out, and a note
    says so. What needed the authors' services is not done: pornography, sentiment and capitalisation; nor is it
    asked that images are JPEG, as both sets did.

    A table of hypernyms ("Obama", "politician") saves captions whose names are rare: words are counted as what they
    stand for. Captions themselves stay as they are: CC3M replaced names in them, and CC12M names of persons.

    Example:
        >>> build_curator("cc12m", rare=5).decide_all(pairs).keep.sum()
        142
    """

    stage: ClassVar[str] = "filter"

    rules: str = option("cc12m", "whose rules", choices=tuple(RULES))
    rare: int | None = option(
        None, "a word that occurs less often is rare; 0 for no rule; as published by default", low=0
    )
    tagger: str = option("", "pipeline of spaCy, name or folder, that tells nouns, determiners and prepositions")
    labels: str = option("", "column of what the image shows, with commas between the labels")
    hypernyms: str = option("", "file of words or phrases and, behind a tab, what they stand for")

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, "width", "height", *((self.labels,) if self.labels else ()))

    @property
    def _rules(self) -> Rules:
        return RULES[self.rules]

    @property
    def _rare(self) -> int:
        return self._rules.rare if self.rare is None else self.rare

    def check(self, columns: Collection[str]) -> None:
        super().check(columns)
        if self.tagger:
            _pipeline(self.tagger)
        _ = self._table

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        self.check(pairs.columns)
        notes = []
        if not self.tagger:
            asked = ", ".join(self._rules.tags)
            notes.append(f"not asked for ({asked}): give tagger=, a pipeline of spaCy")
        if not self.labels:
            notes.append("captions are not compared with what images show: give labels=, a column of an image tagger")
        if not self._rare:
            return Survey(notes=tuple(notes))
        common = common_words(lambda: self._words_of_blocks(pairs, progress), self._rare)
        notes.append(f"{len(common)} words occur {self._rare} times or more; captions with any other are dropped")
        return Survey({"common": np.frombuffer("\n".join(common).encode(), np.uint8)}, notes=tuple(notes))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rules, texts = self._rules, pairs.strings(TEXT)
        low, high = rules.words
        words = [words_in(text) for text in texts]
        counts = np.array([len(each) for each in words], int)
        sides = np.stack([pairs.numbers(name) for name in ("width", "height")])
        shortest, longest = sides.min(axis=0), sides.max(axis=0)
        fails = {
            f"a side of {rules.side} pixels or less": ~(shortest > rules.side),
            f"sides beyond {rules.aspect:g} to 1": ~(longest <= rules.aspect * shortest),
            self.rule_of_language: self.in_another_language(pairs, texts),
            f"not {low} to {high} words": (counts < low) | (counts > high),
            f"more than {100 * rules.repetition:g} % of the words repeated": np.array(
                [len(each) - len(set(each)) > rules.repetition * len(each) for each in words], bool
            ),
        }
        if rules.boilerplate:
            beginnings = rules.boilerplate
            fails["begins like boiler-plate"] = np.array([t.lower().startswith(beginnings) for t in texts], bool)
        if self._rare:
            common = self._common(survey.whole["common"])
            others = (set(self._meant(each)) - common for each in words)
            fails["a rare word"] = np.array([any(map(without_digits, each)) for each in others], bool)
        if self.tagger:
            tags = list(tags_of(texts, self.tagger))
            for name, wanted in rules.tags.items():
                fails[f"no {name}"] = np.array([each.isdisjoint(wanted) for each in tags], bool)
        if self.labels:
            named = zip(words, pairs.strings(self.labels))
            fails["no label of the image in the caption"] = np.array([not names_label(*each) for each in named], bool)
        return Decision.of(fails)

    def _common(self, stored: np.ndarray) -> frozenset[str]:
        """The words of a survey, put in a set once for all blocks."""
        if self._last[0] is not stored:
            self._last = stored, frozenset(stored.tobytes().decode().split("\n"))
        return self._last[1]

    @cached_property
    def _last(self) -> tuple[np.ndarray | None, frozenset[str]]:
        return None, frozenset()

    @cached_property
    def _table(self) -> Mapping[tuple[str, ...], tuple[str, ...]]:
        return read_hypernyms(self.hypernyms) if self.hypernyms else {}

    def _words_of_blocks(self, pairs: PairTable, progress: Progress) -> Iterator[Counter[str]]:
        for block in pairs.blocks():
            yield Counter(chain.from_iterable(self._meant(words_in(text)) for text in pairs.strings(TEXT, block)))
            progress(block.stop, len(pairs))

    def _meant(self, words: list[str]) -> list[str]:
        return hypernymized(words, self._table) if self._table else words


def common_words(blocks: Callable[[], Iterable[Counter[str]]], rare: int) -> list[str]:
    """The words that are not rare, sorted. Memory does not grow with the number of those that are: words are first
    counted by their hashes, then one by one where all of a hash occur often enough.

    Args:
        blocks: gives the counts of each part of the texts, every time it is called.
        rare: how often a word must occur.
    """
    buckets = np.zeros(BUCKETS, np.int64)
    for counts in blocks():
        np.add.at(buckets, [bucket_of(word) for word in counts], list(counts.values()))
    often, exact = buckets >= rare, Counter[str]()
    for counts in blocks():
        exact.update({word: count for word, count in counts.items() if often[bucket_of(word)]})
    return sorted(word for word, count in exact.items() if count >= rare)


def bucket_of(word: str) -> int:
    return crc32(word.encode()) % BUCKETS


def without_digits(word: str) -> bool:
    return not any(map(str.isdigit, word))


def words_in(text: str) -> list[str]:
    """In small letters, without punctuation."""
    return WORD.findall(text.lower())


def read_hypernyms(path: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Words of a phrase -> words of what it stands for."""
    table = table_of(path, "words or phrases and what they stand for")
    return {tuple(words_in(phrase)): tuple(words_in(str(general))) for phrase, general in table.items()}


def hypernymized(words: Sequence[str], table: Mapping[tuple[str, ...], tuple[str, ...]]) -> list[str]:
    """Words with the longest phrases of a table replaced, from left to right."""
    if not table:
        return list(words)
    longest, made, place = max(map(len, table)), list[str](), 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            if (general := table.get(tuple(words[place : place + length]))) is not None:
                made += general
                place += length
                break
        else:
            made.append(words[place])
            place += 1
    return made


def names_label(words: Sequence[str], labels: str) -> bool:
    """Whether a label, of several with commas between them, stands among the words of a caption."""
    text = f" {' '.join(words)} "
    return any(f" {' '.join(words_in(label))} " in text for label in SEPARATORS.split(labels) if label.strip())


def tags_of(texts: Sequence[str], tagger: str) -> Iterator[set[str]]:
    """The parts of speech of each text, as Universal Dependencies call them."""
    return ({token.pos_ for token in document} for document in _pipeline(tagger).pipe(texts))


@lru_cache(maxsize=1)
def _pipeline(tagger: str) -> Any:
    need_package("the tagger of cc12m", "spacy", "reports")
    import spacy

    try:
        return spacy.load(tagger)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"tagger {tagger}: not a pipeline of spaCy that is here ({reason})") from None
