"""Code switching: words of a caption in other languages, by a dictionary."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...runtime.reading import read_json

EXAMPLE = '{"en": {"dog": {"de": ["Hund"], "fr": ["chien"]}}}'
Words = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class CodeSwitch:
    """Switches words of captions.

    M3P: Learning Universal Representations via Multitask Multilingual Multimodal Pre-training, 2020, arXiv 2006.02635:
    a sentence with probability `sentences`, then each of its words that the dictionary has with probability `words`, to
    a language drawn evenly among those that have the word and a translation drawn evenly among theirs. Words are what
    stands between single blanks; capital letters and punctuation count.

    Args:
        dictionary: word -> language -> translations, one at least.
        sentences, words: the probabilities.
    """

    dictionary: Words
    sentences: float = 0.8
    words: float = 0.8

    def __call__(self, text: str, random: random.Random) -> str:
        """The caption, with one draw for it, one for each word that is known, and two for each that is switched."""
        if random.random() >= self.sentences:
            return text
        return " ".join(self._switched(word, random) for word in text.split(" "))

    def _switched(self, word: str, random: random.Random) -> str:
        translated = self.dictionary.get(word)
        if not translated or random.random() >= self.words:
            return word
        languages = list(translated)
        choices = translated[languages[random.randint(0, len(languages) - 1)]]
        return choices[random.randint(0, len(choices) - 1)]

    def check_known(self, texts: Iterable[str], place: str) -> None:
        """Raise the DataError of a dictionary that has no word of some captions."""
        if not any(word in self.dictionary for text in texts for word in text.split(" ")):
            raise DataError(f"{place}: has none of the words of the captions; give a dictionary of their language")


def read_dictionary(path: str | Path, language: str) -> Words:
    """The words of a language in a JSON file {language: {word: {other language: [translations]}}}.

    Args:
        language: of the captions.

    Raises:
        DataError: it cannot be read, has another form, or lacks the language.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or not all(isinstance(words, dict) for words in content.values()):
        raise DataError(f"{path}: not a dictionary; write {EXAMPLE}")
    if language not in content:
        there = ", ".join(sorted(content)) or "none"
        raise DataError(f"{path}: has no language '{language}'; give one of {there} as code_switch_language")
    words: dict[str, Mapping[str, Sequence[str]]] = {}
    for word, translated in content[language].items():
        of_word = _translations(translated)
        if of_word is None:
            raise DataError(f"{path}: '{str(word)[:40]}' has no lists of translations by language; write {EXAMPLE}")
        if of_word:
            words[word] = of_word
    return words


def _translations(translated: Any) -> dict[str, list[str]] | None:
    """Language -> translations, languages without one left out; None for another form."""
    if not isinstance(translated, dict):
        return None
    by_language = translated.items()
    if not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for _, texts in by_language):
        return None
    return {language: [text for text in texts if text] for language, texts in by_language if any(texts)}
