"""The sets that few-shot research reports: their names in every usual spelling, their prompts and class counts.

Learning to Prompt for Vision-Language Models, 2021, arXiv 2109.01134, for the eleven sets and their prompts;
Tip-Adapter, 2022, arXiv 2207.09519, for the seven prompts of ImageNet.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...core.errors import UnknownNameError, did_you_mean

FILE = Path(__file__).with_name("known_sets.json")


@dataclass(frozen=True)
class KnownSet:
    """One of them.

    Args:
        name: as methods call it that publish settings for it (`adapter.preset`).
        title: as papers print it.
        classes: how many it has; several numbers where copies differ.
        templates: its published prompts.
        one: the one prompt that other papers take, where these are several.
    """

    name: str
    title: str
    classes: tuple[int, ...]
    templates: tuple[str, ...]
    one: str | None = None


def known_set(name: str) -> KnownSet:
    """The set of that name, in any usual spelling ("Flowers102", "oxford-flowers").

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    if (found := _by_spelling().get(plain_name(name))) is None:
        raise UnknownNameError(f"--preset {name}: no published set of that name; {did_you_mean(name, set_names())}")
    return found


def recognised(names_of_place: list[str], classes: int) -> KnownSet | None:
    """The set that a place holds: one of its names is that of a set, and there are as many classes as the set has.

    Args:
        names_of_place: of the folder, the split file, ...
        classes: how many were found.
    """
    found = (_by_spelling().get(plain_name(name)) for name in names_of_place)
    return next((each for each in found if each is not None and classes in each.classes), None)


def set_names() -> tuple[str, ...]:
    """Names of all sets."""
    return tuple(each.name for each in dict.fromkeys(_by_spelling().values()))


def plain_name(name: str) -> str:
    """A name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=1)
def _by_spelling() -> dict[str, KnownSet]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    spelled = {}
    for name, facts in content.items():
        prompts = content[facts["as"]] if "as" in facts else facts
        templates, one = tuple(prompts["templates"]), prompts.get("one")
        made = KnownSet(name, facts["title"], tuple(facts["classes"]), templates, one)
        spelled.update({plain_name(each): made for each in (name, facts["title"], *facts["names"])})
    return spelled
