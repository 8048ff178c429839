"""Lists of entries, such as MetaCLIP's metadata, and which of them a text contains."""

from __future__ import annotations

import re
import string
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..runtime.reading import read_json, text_lines

SET_APART = ",.;:?!`"
NO_SPACES = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\u2fdf\u2ff0-\u2fff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    f"\U00020000-\U0002a6df\U0002a700-\U0002ebef{re.escape(string.punctuation)}，。、；：？！“”‘’（）【】《》〈〉「」『』～—]"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, ideographs and punctuation: no space is asked for beside them. Kana and Hangul
are not among them."""
NEVER = re.compile(rf"[^ ][{SET_APART}]|[{SET_APART}][^ ]|[{SET_APART}] [{SET_APART}]|[\t\n\r]")
"""What no spaced text contains."""


def read_entries(path: Path) -> dict[str, list[str]]:
    """Language -> entries, of a .json file or a text with an entry per line; "" where it has one list for all.

    Raises:
        DataError: no such file, nothing in it, or something else than strings.
    """
    if path.suffix != ".json":
        lines = (line.rstrip("\r\n") for line in text_lines(path, "give a .json or text file of entries"))
        lists: Any = {"": [line for line in lines if line]}
    else:
        content = read_json(path, "give a list of strings, or lists per language")
        lists = {"": content} if isinstance(content, list) else content
    named = isinstance(lists, dict) and lists and all(isinstance(each, list) and each for each in lists.values())
    if not named or not all(isinstance(entry, str) for each in lists.values() for entry in each):
        raise DataError(f"{path}: not a list of entries; give a list of strings, or lists per language")
    return lists


def spaced(text: str) -> str:
    """A text with a space around it and around each of `SET_APART`, and spaces for tabs and line ends."""
    for mark in SET_APART:
        if mark in text:
            text = text.replace(mark, f" {mark} ")
    return f" {text} ".replace("\t", " ").replace("\n", " ").replace("\r", " ")


class Automaton:
    """Aho and Corasick's automaton (1975) over patterns of any symbols: words of a list, or characters of a string.

    Args:
        patterns: (number, symbols), where no sequence of symbols is empty.
    """

    def __init__(self, patterns: Iterable[tuple[int, Sequence[Hashable]]]):
        leaf: dict[Hashable, int] = {}  # most states have none that follows: they share this one
        self._next: list[dict[Hashable, int]] = [{}]
        self._ends: list[tuple[int, ...]] = [()]
        for number, symbols in patterns:
            state = 0
            for symbol in symbols:
                following = self._next[state].get(symbol)
                if following is None:
                    following = len(self._next)
                    if self._next[state] is leaf:
                        self._next[state] = {}
                    self._next[state][symbol] = following
                    self._next.append(leaf)
                    self._ends.append(())
                state = following
            self._ends[state] += (number,)
        self._else = [0] * len(self._next)  # the longest end of what was read that begins a pattern
        todo = list(self._next[0].values())
        for state in todo:
            for symbol, following in self._next[state].items():
                shorter = self._else[state]
                while shorter and symbol not in self._next[shorter]:
                    shorter = self._else[shorter]
                self._else[following] = self._next[shorter].get(symbol, 0)
                todo.append(following)
            self._ends[state] += self._ends[self._else[state]]

    def find(self, symbols: Iterable[Hashable]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(position of the last symbol, numbers of the patterns that end there)."""
        following, ends, otherwise, state = self._next, self._ends, self._else, 0
        for position, symbol in enumerate(symbols):
            while (after := following[state].get(symbol)) is None and state:
                state = otherwise[state]
            state = after or 0
            if ends[state]:
                yield position, ends[state]


class EntryList:
    """A list of entries, which a text contains or not: " ENTRY " is a substring of the spaced text; upper and lower
    case differ.

    What has a space at both ends is looked for word by word, the rest character by character.

    Args:
        entries: strings; an empty one never matches.
        unspaced: whether an entry needs no space at an end where `NO_SPACES` holds (MetaCLIP 2).
    """

    def __init__(self, entries: Sequence[str], unspaced: bool):
        padded = [_padded(entry, unspaced) for entry in entries]
        self.never = np.array([not e or bool(NEVER.search(p)) for e, p in zip(entries, padded)], bool)
        alive = [number for number, never in enumerate(self.never) if not never]
        words = [number for number in alive if padded[number][0] == padded[number][-1] == " "]
        characters = sorted(set(alive) - set(words))
        self._lengths = [len(each) for each in padded]
        self._words = Automaton((number, padded[number][1:-1].split(" ")) for number in words)
        self._characters = Automaton((n, padded[n]) for n in characters) if characters else None

    def __len__(self) -> int:
        return len(self._lengths)

    def matches(self, texts: Sequence[str], longest: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Each entry once per text.

        Args:
            longest: of matches that overlap, spaces included, only the leftmost, and of those the longest.

        Returns:
            (M,) entries, ascending within a text, and (M,) texts, ascending.
        """
        entries: list[int] = []
        counts = []
        for text in texts:
            line = spaced(text)
            mine = self._longest(line) if longest else {n for _, ends in self._found(line) for n in ends}
            entries.extend(sorted(mine))
            counts.append(len(mine))
        return np.array(entries, np.int64), np.repeat(np.arange(len(texts)), counts)

    def _found(self, line: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        yield from self._words.find(line[1:-1].split(" "))
        if self._characters is not None:
            yield from self._characters.find(line)

    def _longest(self, line: str) -> set[int]:
        words = line[1:-1].split(" ")
        stops = list(accumulate((len(word) + 1 for word in words), initial=1))[1:]  # after the space behind each
        spans = [(stops[at], n) for at, ends in self._words.find(words) for n in ends]
        if self._characters is not None:
            spans += [(at + 1, n) for at, ends in self._characters.find(line) for n in ends]
        chosen, reached = set(), 0
        for start, negative_stop, number in sorted((stop - self._lengths[n], -stop, n) for stop, n in spans):
            if start >= reached:
                chosen.add(number)
                reached = -negative_stop
        return chosen


def _padded(entry: str, unspaced: bool) -> str:
    if not entry or not unspaced:
        return f" {entry} "
    return f"{'' if NO_SPACES.match(entry[0]) else ' '}{entry}{'' if NO_SPACES.match(entry[-1]) else ' '}"
