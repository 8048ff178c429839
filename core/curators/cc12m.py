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
from ..errors import ConfigError, DataError
from ..runtime.process import need_package
from ._captions import CaptionFilter, word_table

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
SEPARATORS = re.compile(r"\s*[,;|]\s*")
NOUN, DETERMINER, PREPOSITION = ("NOUN", "PROPN"), ("DET",), ("ADP",)
PERSON, PERSONS = "<PERSON>", ("PERSON", "PER")
"""What stands for a name, and what pipelines call one."""
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
    stand for. `rewrite` also writes captions so, as CC3M did, and `persons` puts `<PERSON>` in place of names of
    persons, as CC12M did; the texts of the pairs stay as they are, and decisions hold the others. CC3M's knowledge
    graph, and what else it took out of captions, such as dates and places, are not public.

    Rare words are counted in the pool, and a small pool loses most captions by them: set `rare=2`, or 0.

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
    rewrite: bool = option(False, "write captions anew, with what their phrases stand for; needs hypernyms")
    persons: bool = option(False, "write <PERSON> for the names of persons; needs a tagger that knows them")

    def __post_init__(self):
        super().__post_init__()
        for wish, needed in (("rewrite", "hypernyms"), ("persons", "tagger")):
            if getattr(self, wish) and not getattr(self, needed):
                raise ConfigError(f"curator '{self.name}': {wish} needs {needed}; give {needed}=")

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
        if self.persons:
            check_entities(self.tagger)
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
        words, documents = [_words_in(text) for text in texts], self._documents(texts)
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
            others = (set(self._meant(*each)) - common for each in zip(texts, documents))
            fails["a rare word"] = np.array([any(map(without_digits, each)) for each in others], bool)
        if self.tagger:
            tags = [{token.pos_ for token in each} for each in documents]
            for name, some in rules.tags.items():
                fails[f"no {name}"] = np.array([each.isdisjoint(some) for each in tags], bool)
        if self.labels:
            named = zip(words, pairs.strings(self.labels))
            fails["no label of the image in the caption"] = np.array([not names_label(*each) for each in named], bool)
        return Decision.of(fails, captions=self._captions(texts, documents))

    def _captions(self, texts: Sequence[str], documents: Sequence[Any]) -> list[str | None] | None:
        """Captions that are not as they were."""
        if not (self.rewrite or self.persons):
            return None
        table = self._table if self.rewrite else {}
        made = (rewritten(text, self._persons(each), table) for text, each in zip(texts, documents))
        return [None if new == old else new for new, old in zip(made, texts)]

    def _documents(self, texts: Sequence[str]) -> list[Any]:
        """What the tagger says of each text; None for each where there is no tagger."""
        return list(_pipeline(self.tagger).pipe(texts)) if self.tagger else [None] * len(texts)

    def _persons(self, document: Any) -> list[tuple[int, int]]:
        """Where names of persons begin and end in a text."""
        entities = document.ents if self.persons else ()
        return [(each.start_char, each.end_char) for each in entities if each.label_ in PERSONS]

    def _common(self, stored: np.ndarray) -> frozenset[str]:
        """The words of a survey, put in a set once for all blocks."""
        if self._last[0] is not stored:
            self._last = stored, frozenset(stored.tobytes().decode().split("\n"))
        return self._last[1]

    @cached_property
    def _last(self) -> tuple[np.ndarray | None, frozenset[str]]:
        return None, frozenset()

    @cached_property
    def _table(self) -> Mapping[tuple[str, ...], str]:
        return read_hypernyms(self.hypernyms) if self.hypernyms else {}

    def _words_of_blocks(self, pairs: PairTable, progress: Progress) -> Iterator[Counter[str]]:
        for block in pairs.blocks():
            texts = pairs.strings(TEXT, block)
            documents = self._documents(texts) if self.persons else [None] * len(texts)
            yield Counter(chain.from_iterable(map(self._meant, texts, documents)))
            progress(block.stop, len(pairs))

    def _meant(self, text: str, document: Any) -> list[str]:
        """The words by which a caption is rare."""
        persons = self._persons(document)
        return _words_in(rewritten(text, persons, self._table) if persons or self._table else text)


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


def _words_in(text: str) -> list[str]:
    """In small letters, without punctuation."""
    return WORD.findall(text.lower())


def read_hypernyms(path: str) -> dict[tuple[str, ...], str]:
    """Words of a phrase -> what it stands for."""
    table = word_table(path, "words or phrases and what they stand for")
    return {tuple(_words_in(phrase)): str(general) for phrase, general in table.items()}


def rewritten(text: str, persons: Sequence[tuple[int, int]], table: Mapping[tuple[str, ...], str]) -> str:
    """A text with <PERSON> in place of some parts, and elsewhere with the longest phrases of a table replaced.

    Args:
        persons: (begin, end) of the parts, in their order.
    """
    made, place = list[str](), 0
    for begin, end in persons:
        made += [hypernymized(text[place:begin], table), PERSON]
        place = end
    return "".join([*made, hypernymized(text[place:], table)])


def hypernymized(text: str, table: Mapping[tuple[str, ...], str]) -> str:
    """A text with the longest phrases of a table replaced, from left to right; all else in it stays."""
    if not table:
        return text
    words = list(WORD.finditer(text))
    small, longest = [word.group().lower() for word in words], max(map(len, table))
    made, written, place = list[str](), 0, 0
    while place < len(words):
        lengths = range(min(longest, len(words) - place), 0, -1)
        length = next((each for each in lengths if tuple(small[place : place + each]) in table), 0)
        if length:
            made += [text[written : words[place].start()], table[tuple(small[place : place + length])]]
            written = words[place + length - 1].end()
        place += length or 1
    return "".join([*made, text[written:]])


def names_label(words: Sequence[str], labels: str) -> bool:
    """Whether a label, of several with commas between them, stands among the words of a caption."""
    text = f" {' '.join(words)} "
    return any(f" {' '.join(_words_in(label))} " in text for label in SEPARATORS.split(labels) if label.strip())


def check_entities(tagger: str) -> None:
    """Raise the DataError of a pipeline that tells no names."""
    pipeline = _pipeline(tagger)
    if not any("doc.ents" in pipeline.get_pipe_meta(name).assigns for name in pipeline.pipe_names):
        raise DataError(f"tagger {tagger}: tells no names of persons; give a pipeline with entity recognition")


@lru_cache(maxsize=1)
def _pipeline(tagger: str) -> Any:
    need_package("the tagger of cc12m", "spacy", "reports")
    import spacy

    try:
        return spacy.load(tagger)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"tagger {tagger}: not a pipeline of spaCy that is here ({reason})") from None
