"""Captions that are wrong by a detail, made from right ones."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from .augment_text import FUNCTION_WORDS, kind_of_word

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
VOWELS = tuple("aeiou")


def swap_negative(text: str, generator: np.random.Generator) -> str:
    """The caption with two of its words in each other's place: "a black cat on a white rug" -> "a white cat on a black
    rug".

    When and Why Vision-Language Models Behave Like Bags-of-Words, and What to Do About It (NegCLIP; Yuksekgonul et al.,
    2022, arXiv 2210.01936) swaps two nouns, adjectives, adverbs, verbs or noun phrases that a parser finds. Ours needs
    no parser: two adjectives, nouns, verbs or numbers of a small list of words are swapped, each kind that has two in
    the text as likely; else any two words that are not function words; else any two. A text with no two different words
    gets "no" before it. "a" and "an" follow the word after them, so that they do not give the negative away; the words
    themselves keep their number, as in NegCLIP.

    Args:
        text: the caption.
        generator: the source of chance.

    Returns:
        A text that differs from `text`.
    """
    words = list(WORD.finditer(text))
    pairs = _pairs_of_a_kind(words, generator)
    pairs = pairs or _different([word for word in words if word.group().lower() not in FUNCTION_WORDS])
    pairs = pairs or _different(words)
    if not pairs:
        return f"no {text}"
    first, second = pairs[int(generator.integers(len(pairs)))]
    new_first, new_second = _cased(second.group(), first.group()), _cased(first.group(), second.group())
    before = _with_article(text[: first.start()], new_first, first.group())
    between = _with_article(text[first.end() : second.start()], new_second, second.group())
    return before + new_first + between + new_second + text[second.end() :]


Pairs = list[tuple[re.Match, re.Match]]


def _pairs_of_a_kind(words: list[re.Match], generator: np.random.Generator) -> Pairs:
    """Pairs of one kind of word, drawn from the kinds that have some."""
    by_kind = defaultdict(list)
    for word in words:
        if kind := kind_of_word(word.group().lower()):
            by_kind[kind].append(word)
    choices = [pairs for kind in sorted(by_kind) if (pairs := _different(by_kind[kind]))]
    return choices[int(generator.integers(len(choices)))] if choices else []


def _different(words: list[re.Match]) -> Pairs:
    """All pairs of different words, in the order of the text."""
    return [
        (first, second)
        for place, first in enumerate(words)
        for second in words[place + 1 :]
        if first.group().lower() != second.group().lower()
    ]


def _cased(word: str, as_in: str) -> str:
    """A word with a capital where the one it replaces has one, and without where it begins the text's sentence."""
    if as_in[0].isupper() and word.islower():
        return word[0].upper() + word[1:]
    return word[0].lower() + word[1:] if as_in.islower() and word[1:].islower() else word


def _with_article(before: str, word: str, old: str) -> str:
    """The text before a word, its "a" or "an" as the new word wants it."""
    match = re.search(r"\b(an?)(\s+)$", before, re.IGNORECASE)
    vowel = word[0].lower() in VOWELS
    if not match or vowel == (old[0].lower() in VOWELS):
        return before
    article = match.group(1)[0] + ("n" if vowel else "")
    return before[: match.start(1)] + article + match.group(2)
