"""The scene sets of the field: how they spell their classes, told apart by these, and the words that are said.

Names of classes were read from the public readers of the sets; EuroSAT's words are those of "Learning to Prompt for
Vision-Language Models", 2021, arXiv 2109.01134.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ...core.contracts import DomainData
from ...core.errors import UnknownNameError, did_you_mean

FILE = Path(__file__).with_name("scene_sets.json")
WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
RUN_TOGETHER = re.compile(r"^[A-Za-z]+(_[A-Za-z0-9]+)*$")
"""A name written as one word, which may be several: "baseballField", "storage_tanks", "tenniscourt"."""


@dataclass(frozen=True)
class SceneSet:
    """A published set.

    Args:
        name: as methods call it that publish settings for it.
        title: as papers print it.
        classes: plain spelling of a class ("annualcrop") -> the words that are said ("annual crop land").
        count: number of classes.
        one: the one prompt that papers take for it, or None for the usual one.
    """

    name: str
    title: str
    classes: dict[str, str]
    count: int
    one: str | None = None

    def words(self, class_names: Sequence[str]) -> tuple[str, ...] | None:
        """What is said of classes that are those of the set, each once, or None."""
        words = tuple(self.classes.get(bare_name(name), "") for name in class_names)
        return words if len(words) == self.count == len(set(words) - {""}) else None


def with_words(data: DomainData) -> tuple[DomainData, SceneSet | None]:
    """The data with words for names of classes, and the published set whose classes they are."""
    for each in scene_sets().values():
        if (words := each.words(data.class_names)) is not None:
            return replace(data, class_names=words, published=each.name), each
    if any(" " in name for name in data.class_names):  # words already
        return data, None
    words = tuple(spoken_name(name) for name in data.class_names)
    return (replace(data, class_names=words) if len(set(words)) == len(words) else data), None


def spoken_name(name: str) -> str:
    """ "baseballField", "baseball_field" and "baseballfield" as "baseball field"; what has spaces stays as it is."""
    if not RUN_TOGETHER.match(name) or name.isupper():
        return name
    return _lexicon().get(bare_name(name)) or " ".join(WORD_ENDS.sub(" ", name).lower().split())


def scene_set(name: str) -> SceneSet:
    """The set of that name, in any usual spelling ("UC-Merced", "ucm").

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    if (named := _by_spelling().get(bare_name(name))) is None:
        names = tuple(scene_sets())
        raise UnknownNameError(f"--preset {name}: no published scene set of that name; {did_you_mean(name, names)}")
    return named


@lru_cache(maxsize=1)
def scene_sets() -> dict[str, SceneSet]:
    """Name -> set."""
    return {name: _made(name, facts) for name, facts in _content().items()}


def bare_name(name: str) -> str:
    """A name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _made(name: str, facts: dict) -> SceneSet:
    classes = {bare_name(words): words for words in facts["classes"]}
    for words, spellings in facts.get("spelled", {}).items():
        classes.update({bare_name(spelling): words for spelling in spellings})
    return SceneSet(name, facts["title"], classes, len(facts["classes"]), facts.get("one"))


@lru_cache(maxsize=1)
def _content() -> dict[str, dict]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _by_spelling() -> dict[str, SceneSet]:
    return {
        bare_name(spelling): scene_sets()[name]
        for name, facts in _content().items()
        for spelling in (name, facts["title"], *facts["names"])
    }


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, str]:
    """Plain spelling -> words, of all classes of all sets that are spelled as they are said."""
    return {bare_name(words): words for facts in _content().values() for words in facts["classes"]}
