"""A small list of words by kind, packaged beside: enough to make hard negatives without a parser."""

from __future__ import annotations

import json
from pathlib import Path

_LISTS: dict[str, str] = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))

FUNCTION_WORDS = frozenset(_LISTS.pop("function").split())
"""Articles, prepositions, pronouns, auxiliary verbs and the like."""

KINDS: dict[str, str] = {word: kind for kind, words in _LISTS.items() for word in words.split()}
"""Word -> "adjective", "noun", "number" or "verb"; nouns in the singular but for those that have none."""


def kind_of(word: str) -> str | None:
    """The kind of a word in lower case, plurals of known nouns included, or None."""
    if word in KINDS:
        return KINDS[word]
    singulars = (word.removesuffix("s"), word.removesuffix("es"), f"{word[:-3]}y" if word.endswith("ies") else word)
    return "noun" if any(KINDS.get(singular) == "noun" for singular in singulars) else None
