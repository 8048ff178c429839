"""Small changes of a sentence: words swapped or left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...contracts.options import require

_LISTS: dict[str, str] = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))

FUNCTION_WORDS = frozenset(_LISTS.pop("function").split())
"""Articles, prepositions, pronouns, auxiliary verbs and the like."""

KINDS: dict[str, str] = {word: kind for kind, words in _LISTS.items() for word in words.split()}
"""Word -> "adjective", "noun", "number" or "verb"; nouns in the singular but for those that have none."""


@dataclass(frozen=True)
class TextAugment:
    """EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks (Wei and Zou, 2019,
    arXiv 1901.11196), with which DeCLIP makes the second text of an image.

    A call does one of two things, each as likely: swap two words, max(1, alpha * words) times, or leave out each word
    with probability alpha, but never all. The paper's other two need a thesaurus, and none is packaged. Case and
    punctuation stay, which the released code removes.

    Args:
        alpha: share of words that change, above 0 to 1.

    Raises:
        ConfigError: alpha is out of range.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.alpha <= 1, "alpha", self.alpha, "give a number above 0, at most 1")

    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """The text with one change; one word alone stays as it is."""
        words = text.split()
        if len(words) < 2:
            return text
        change = (self._swap, self.without_some)[int(generator.integers(2))]
        return " ".join(change(words, generator))

    def _swap(self, words: list[str], generator: np.random.Generator) -> list[str]:
        words = list(words)
        for _ in range(max(1, int(self.alpha * len(words)))):
            first, second = generator.choice(len(words), 2, replace=False)
            words[first], words[second] = words[second], words[first]
        return words

    def without_some(self, words: list[str], generator: np.random.Generator) -> list[str]:
        """Each word left out with probability alpha, but never all."""
        stays = generator.random(len(words)) >= self.alpha
        if not stays.any():
            stays[generator.integers(len(words))] = True
        return [word for word, here in zip(words, stays, strict=True) if here]


def kind_of_word(word: str) -> str | None:
    """The kind of a word in lower case, plurals of known nouns included, or None."""
    if word in KINDS:
        return KINDS[word]
    singulars = (word.removesuffix("s"), word.removesuffix("es"), f"{word[:-3]}y" if word.endswith("ies") else word)
    return "noun" if any(KINDS.get(singular) == "noun" for singular in singulars) else None
