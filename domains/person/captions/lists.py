"""Sentences about people from lists of attributes: of Market-1501, DukeMTMC, PETA, PA-100K, a table of one's own.

What a person has is said, what a person has not is not; only gender has two sides. Attributes that
`attribute_words.json` does not know are said by their names.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....core.contracts import spoken
from ....core.data import Table
from ..attribute_words import pair_of
from .combine import PERSON, Description

WOMAN, MAN = "a woman", "a man"
AGES = {
    "young": "young",
    "personalless30": "young",
    "teenager": "teenage",
    "ageless18": "young",
    "old": "old",
    "ageover60": "old",
    "personallarger60": "old",
}
STARTS = {"a person wearing ": "worn", "a person in ": "worn", "a person with ": "carried"}
LEFT_OUT = frozenset(map(Table.plain_name, ("Front", "Side", "Back", "accessoryNothing", "carryingNothing")))
"""The view, and what says that there is nothing."""
HAIR, CLOTHES = ("hair",), ("clothing", "garment", "shirt", "sleeves")


def description_of(values: Mapping[str, float]) -> Description:
    """The parts of a sentence.

    Args:
        values: attribute -> 1 where the person has it, 0 where not, NaN where nobody knows.
    """
    parts: dict[str, list[tuple[str, ...]]] = {"worn": [], "carried": [], "extras": []}
    nouns, ages = set(), set()
    for name, value in values.items():
        pair = pair_of(name)
        if pair is not None and {*pair} == {WOMAN, MAN}:
            nouns |= {pair[0] if value == 1 else pair[1]} if value in (0, 1) else set()
        elif value == 1 and Table.plain_name(name) in AGES:
            ages.add(AGES[Table.plain_name(name)])
        elif value == 1 and Table.plain_name(name) not in LEFT_OUT:
            part, text = _part(name, pair)
            if text:
                parts[part].append((text,))
    noun = next(iter(nouns)) if len(nouns) == 1 else PERSON
    subject = _aged(noun, next(iter(ages))) if len(ages) == 1 else noun
    return Description((subject,), *(tuple(each) for each in parts.values()))


def _part(name: str, pair: tuple[str, str] | None) -> tuple[str, str]:
    """In which part of a sentence an attribute stands, and its words; "" for what is said of nobody."""
    if pair is None:
        words = spoken(name)
        return ("worn", words) if words.endswith(CLOTHES) else ("extras", f"with {words}")
    for start, part in STARTS.items():
        if pair[0].startswith(start):
            words = pair[0].removeprefix(start)
            return ("extras", f"with {words}") if words.endswith(HAIR) else (part, words)
    return "extras", ""


def _aged(noun: str, age: str) -> str:
    return f"{'an' if age[0] in 'aeiou' else 'a'} {age} {noun.partition(' ')[2]}"
