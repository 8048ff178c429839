"""What generated pedestrians wear and carry, and the sentences that say so, in varied order and words.

Nothing is said of sex, age or origin: a sentence names garments, colours, hair and carried things alone. It leaves some
of them out, so that now and then it fits two people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.08, 0.08, 0.09),
    "white": (0.93, 0.93, 0.92),
    "grey": (0.5, 0.5, 0.52),
    "red": (0.78, 0.1, 0.12),
    "orange": (0.93, 0.5, 0.1),
    "yellow": (0.95, 0.83, 0.2),
    "green": (0.15, 0.5, 0.22),
    "blue": (0.2, 0.45, 0.85),
    "navy": (0.09, 0.13, 0.35),
    "brown": (0.4, 0.24, 0.13),
    "pink": (0.95, 0.6, 0.72),
    "purple": (0.45, 0.2, 0.6),
    "beige": (0.82, 0.73, 0.57),
}
"""Name -> red, green and blue in 0..1."""
HAIR: dict[str, tuple[float, float, float]] = {
    "black": (0.07, 0.06, 0.06),
    "brown": (0.32, 0.19, 0.1),
    "blond": (0.83, 0.68, 0.38),
    "grey": (0.62, 0.62, 0.62),
}


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


NONE = "none"
VALUES: dict[str, tuple[str, ...]] = {
    "upper": ("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat"),
    "upper colour": tuple(COLOURS),
    "pattern": ("plain", "striped", "checked", "printed"),
    "lower": ("trousers", "shorts", "skirt"),
    "lower colour": tuple(COLOURS),
    "shoes": ("trainers", "boots"),
    "shoes colour": ("black", "white", "grey", "red", "blue", "brown"),
    "hair": ("short", "long"),
    "hair colour": tuple(HAIR),
    "hat": (NONE, "cap", "hat"),
    "hat colour": tuple(COLOURS),
    "bag": (NONE, "backpack", "shoulder bag", "handbag", "suitcase"),
    "bag colour": tuple(COLOURS),
    "scarf colour": (NONE, *COLOURS),
}
"""Attribute -> its values. A colour of what is not there is "none", too."""
USUAL = {
    "upper": (0.25, 0.15, 0.15, 0.15, 0.2, 0.1),
    "pattern": (0.6, 0.18, 0.12, 0.1),
    "lower": (0.6, 0.2, 0.2),
    "hat": (0.7, 0.18, 0.12),
    "bag": (0.35, 0.25, 0.2, 0.12, 0.08),
}
"""How often each value occurs; evenly where nothing is said."""
WITH_SCARF = 0.12
ATTRIBUTES: dict[str, tuple[str, str]] = {
    **{_with_article(kind): ("upper", kind) for kind in VALUES["upper"]},
    **{_with_article(f"{colour} upper garment"): ("upper colour", colour) for colour in COLOURS},
    **{
        name: ("pattern", kind)
        for name, kind in (("stripes", "striped"), ("checks", "checked"), ("a print", "printed"))
    },
    **{name: ("lower", kind) for name, kind in (("trousers", "trousers"), ("shorts", "shorts"), ("a skirt", "skirt"))},
    **{_with_article(f"{colour} lower garment"): ("lower colour", colour) for colour in COLOURS},
    "boots": ("shoes", "boots"),
    "long hair": ("hair", "long"),
    **{f"{colour} hair": ("hair colour", colour) for colour in HAIR},
    **{f"a {kind}": ("hat", kind) for kind in VALUES["hat"][1:]},
    **{f"a {kind}": ("bag", kind) for kind in VALUES["bag"][1:]},
}
"""What a person is seen with -> the attribute and its value."""
TWINS = 0.25
"""Of every second person: the chance to wear what the person before wears, but for a few things."""
CHANGED_OF_TWINS = 3

WORDS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "tee", "short-sleeved top"),
    "shirt": ("shirt", "buttoned shirt"),
    "sweater": ("sweater", "jumper", "pullover"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "open jacket"),
    "coat": ("coat", "long coat"),
    "trousers": ("trousers", "pants", "long pants"),
    "shorts": ("shorts", "short pants"),
    "skirt": ("skirt",),
    "trainers": ("trainers", "sneakers", "shoes"),
    "boots": ("boots", "high boots"),
    "cap": ("cap", "baseball cap"),
    "hat": ("hat", "knitted hat"),
    "backpack": ("backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "bag across the body"),
    "handbag": ("handbag", "bag in one hand"),
    "suitcase": ("suitcase", "trolley case"),
    "grey": ("grey", "gray"),
    "navy": ("navy", "dark blue"),
    "beige": ("beige", "tan"),
    "purple": ("purple", "violet"),
    "blond": ("blond", "light"),
    "striped": ("striped", "stripy"),
    "checked": ("checked", "plaid"),
    "printed": ("printed",),
}
"""Other words for a value."""
PLURAL = frozenset({"trousers", "shorts", "trainers", "boots"})
WHO = ("a person", "a pedestrian", "someone", "the person", "the pedestrian")
AGAIN = ("this person", "the walker")
WEARS = ("wears", "has on", "is dressed in", "is wearing")
CARRIES = ("carries", "is carrying", "is seen with")


def outfit(seed: int, identity: int) -> dict[str, str]:
    """The attributes of a person: a value for each of `VALUES`."""
    worn = _drawn(np.random.default_rng([seed, identity]))
    rng = np.random.default_rng([seed, identity, 1])
    if identity % 2 and rng.random() < TWINS:
        before = _drawn(np.random.default_rng([seed, identity - 1]))
        differing = [name for name in VALUES if name not in ("hat colour", "bag colour") and worn[name] != before[name]]
        for name in rng.choice(differing, min(CHANGED_OF_TWINS, len(differing)), replace=False):
            before[name] = worn[name]
        worn = before
    return _without_colours_of_nothing(worn)


def seen_attributes(worn: Mapping[str, str]) -> tuple[float, ...]:
    """1 or 0 for each of `ATTRIBUTES`."""
    return tuple(float(worn[name] == value) for name, value in ATTRIBUTES.values())


def _drawn(rng: np.random.Generator) -> dict[str, str]:
    worn = {name: str(rng.choice(values, p=USUAL.get(name))) for name, values in VALUES.items()}
    if rng.random() >= WITH_SCARF:
        worn["scarf colour"] = NONE
    return worn


def _without_colours_of_nothing(worn: dict[str, str]) -> dict[str, str]:
    for thing in ("hat", "bag"):
        colour = f"{thing} colour"
        if worn[thing] == NONE:
            worn[colour] = NONE
        elif worn[colour] == NONE:  # of a twin whose model goes without
            worn[colour] = "black"
    return worn


def outfit_sentences(worn: Mapping[str, str], rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """So many descriptions of an outfit, each of the upper and lower garment and some of the rest."""
    return tuple(_description(worn, rng) for _ in range(count))


def _description(worn: Mapping[str, str], rng: np.random.Generator) -> str:
    wears = [_upper(worn, rng), _of("lower", worn, rng)]
    wears += [_of("shoes", worn, rng)] if rng.random() < 0.5 else []
    wears += [_of("hat", worn, rng)] if worn["hat"] != NONE and rng.random() < 0.8 else []
    scarf = worn["scarf colour"]
    wears += [f"a {_word(scarf, rng)} scarf"] if scarf != NONE and rng.random() < 0.7 else []
    hair = f"{worn['hair']} {_word(worn['hair colour'], rng)} hair" if rng.random() < 0.5 else ""
    bag = _of("bag", worn, rng) if worn["bag"] != NONE and rng.random() < 0.85 else ""
    order = rng.permutation(len(wears)) if rng.random() < 0.4 else range(len(wears))
    return _choice(FORMS, rng)(_listed([wears[i] for i in order]), hair, bag, rng)


def _one_sentence(wears: str, hair: str, bag: str, rng: np.random.Generator) -> str:
    hair = f" with {hair}" if hair else ""
    bag = f", and {_choice(CARRIES, rng)} {bag}" if bag else ""
    return _sentence(f"{_choice(WHO, rng)}{hair} {_choice(WEARS, rng)} {wears}{bag}")


def _two_sentences(wears: str, hair: str, bag: str, rng: np.random.Generator) -> str:
    first = _sentence(f"{_choice(WHO, rng)} {_choice(WEARS, rng)} {wears}")
    further = [f"has {hair}"] * bool(hair) + [f"{_choice(CARRIES, rng)} {bag}"] * bool(bag)
    return f"{first} {_sentence(f'{_choice(AGAIN, rng)} ' + ' and '.join(further))}" if further else first


def _things_first(wears: str, hair: str, bag: str, rng: np.random.Generator) -> str:
    further = " and ".join(filter(None, (bag, hair)))
    return _sentence(f"{wears}, worn by {_choice(WHO, rng)}" + (f" with {further}" if further else ""))


def _bag_first(wears: str, hair: str, bag: str, rng: np.random.Generator) -> str:
    hair = f" and has {hair}" if hair else ""
    carrying = f"carrying {bag}, " if bag else ""
    return _sentence(f"{carrying}{_choice(WHO, rng)} {_choice(WEARS, rng)} {wears}{hair}")


FORMS: tuple[Callable[..., str], ...] = (_one_sentence, _two_sentences, _things_first, _bag_first)


def _upper(worn: Mapping[str, str], rng: np.random.Generator) -> str:
    pattern = "" if worn["pattern"] == "plain" else _word(worn["pattern"], rng)
    parts = [_word(worn["upper colour"], rng), pattern, _word(worn["upper"], rng)]
    if parts[2].startswith("open "):  # "an open red jacket", not "a red open jacket"
        parts = ["open", *parts[:2], "jacket"]
    return _with_article(" ".join(filter(None, parts)))


def _of(thing: str, worn: Mapping[str, str], rng: np.random.Generator) -> str:
    text = f"{_word(worn[f'{thing} colour'], rng)} {_word(worn[thing], rng)}"
    return text if worn[thing] in PLURAL else _with_article(text)


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _word(value: str, rng: np.random.Generator) -> str:
    return _choice(WORDS.get(value, (value,)), rng)


def _choice(options: Sequence, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]
