"""Small changes of a sentence: words swapped, left out, replaced or put in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...contracts.adapter import require
from ...errors import DataError, shortened
from ...runtime.reading import read_json

CORE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
_LISTS: dict[str, str] = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))

FUNCTION_WORDS = frozenset(_LISTS.pop("function").split())
"""Articles, prepositions, pronouns, auxiliary verbs and the like."""

KINDS: dict[str, str] = {word: kind for kind, words in _LISTS.items() for word in words.split()}
"""Word -> "adjective", "noun", "number" or "verb"; nouns in the singular but for those that have none."""


@dataclass(frozen=True)
class TextAugment:
    """EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks (Wei and Zou, 2019,
    arXiv 1901.11196), with which DeCLIP makes the second text of an image.

    A call does one of four things, each as likely: swap two words, leave words out, replace words by synonyms, put a
    synonym of one in anywhere. n = max(1, alpha * words) words are swapped, replaced or put in; each is left out with
    probability alpha, but never all. Synonyms come from the user: without them only the first two happen, since no
    thesaurus is packaged. Case and punctuation stay, which the released code removes; words to insert next to are
    never function words, which it forgets.

    Args:
        synonyms: word in lower case -> its synonyms; see `read_synonyms`.
        alpha: share of words that change, above 0 to 1.

    Raises:
        ConfigError: alpha is out of range.
    """

    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alpha: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.alpha <= 1, "alpha", self.alpha, "give a number above 0, at most 1")

    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """The text with one change; one word alone stays as it is."""
        words = text.split()
        if len(words) < 2:
            return text
        steps = [self._swap, self.without_some, *([self._replace, self._insert] if self.synonyms else [])]
        return " ".join(steps[int(generator.integers(len(steps)))](words, generator))

    def _count(self, words: list[str]) -> int:
        return max(1, int(self.alpha * len(words)))

    def _swap(self, words: list[str], generator: np.random.Generator) -> list[str]:
        words = list(words)
        for _ in range(self._count(words)):
            first, second = generator.choice(len(words), 2, replace=False)
            words[first], words[second] = words[second], words[first]
        return words

    def without_some(self, words: list[str], generator: np.random.Generator) -> list[str]:
        """Each word left out with probability alpha, but never all."""
        kept = generator.random(len(words)) >= self.alpha
        if not kept.any():
            kept[generator.integers(len(words))] = True
        return [word for word, keep in zip(words, kept, strict=True) if keep]

    def _replace(self, words: list[str], generator: np.random.Generator) -> list[str]:
        """Synonyms for n different words, wherever they stand."""
        known = sorted({core_of(word) for word in words if self._synonyms(word)})
        chosen = generator.permutation(len(known))[: self._count(words)]
        new = {known[place]: self._any_synonym(known[place], generator) for place in chosen}
        return [with_core(word, new[core_of(word)]) if core_of(word) in new else word for word in words]

    def _insert(self, words: list[str], generator: np.random.Generator) -> list[str]:
        words = list(words)
        known = [word for word in words if self._synonyms(word)]
        for _ in range(self._count(words) if known else 0):
            synonym = self._any_synonym(known[int(generator.integers(len(known)))], generator)
            words.insert(int(generator.integers(len(words) + 1)), synonym)
        return words

    def _synonyms(self, word: str) -> Sequence[str]:
        core = core_of(word)
        return () if core in FUNCTION_WORDS else self.synonyms.get(core, ())

    def _any_synonym(self, word: str, generator: np.random.Generator) -> str:
        synonyms = self._synonyms(word)
        return synonyms[int(generator.integers(len(synonyms)))]


def read_synonyms(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The synonyms of a JSON file: {"big": ["large", "huge"], ...}.

    Raises:
        DataError: it cannot be read, or is not an object of lists of words.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict):
        raise DataError(f'{path}: not a JSON object; write {{"word": ["synonym", ...], ...}}')
    for word, synonyms in content.items():
        if not isinstance(synonyms, list) or not all(isinstance(other, str) and other.strip() for other in synonyms):
            raise DataError(f"{path}: synonyms of {shortened(json.dumps(word))} are not a list of words; correct it")
    return {word.lower(): tuple(synonyms) for word, synonyms in content.items() if synonyms}


def core_of(word: str) -> str:
    """A word in lower case without the punctuation around it."""
    return CORE.match(word).group(2).lower()


def with_core(word: str, new: str) -> str:
    """Another word within the same punctuation."""
    before, _, after = CORE.match(word).groups()
    return f"{before}{new}{after}"


def kind_of(word: str) -> str | None:
    """The kind of a word in lower case, plurals of known nouns included, or None."""
    if word in KINDS:
        return KINDS[word]
    singulars = (word.removesuffix("s"), word.removesuffix("es"), f"{word[:-3]}y" if word.endswith("ies") else word)
    return "noun" if any(KINDS.get(singular) == "noun" for singular in singulars) else None
