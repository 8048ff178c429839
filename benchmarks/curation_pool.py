"""Drawn pairs of image and caption with the faults of pairs of the web, each of which is known: for `curation.py`.

A picture of 32 pixels shows one to three things of a colour and a shape at a border, by night or by day: 24 classes,
whose frequencies fall as 1 / rank, in an order drawn by the seed. A caption has the class, and each of number, place
and time in four of five texts.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (60, 90, 230), "yellow": (230, 210, 50)}
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring")
NUMBERS, PLACES, TIMES = ("one", "two", "three"), ("left", "right", "top", "bottom"), ("night", "day")
CLASSES = tuple(product(COLOURS, SHAPES))
NAMES = tuple(f"{colour} {shape}" for colour, shape in CLASSES)
GROUND = {"night": 40, "day": 190}
BY_NIGHT, OTHERS_BY_NIGHT = 0.85, 0.35
"""Share of the rings, and of all else, that are shown by night: what a set is biased by."""
STARTS = ("", "a picture of ", "here we see ", "look at ", "a drawing of ")
VAGUE = ("image of something", "a picture", "here we see things", "untitled", "look at this picture")
SAID = 0.8
"""Of the texts have a number, a place, a time."""

WHOLE = (True, True, True)

CLEAN, EXACT, NEAR = "right", "exact copy", "near copy"
ONE_WORD = "one wrong word"
WRONG = {
    "caption of another class": 0.15,
    "caption of a near class": 0.08,
    ONE_WORD: 0.05,
    "caption fits everything": 0.05,
    "empty caption": 0.03,
    "blank picture": 0.04,
    "picture of text": 0.04,
}
"""Kind of fault -> share of the pool."""
COPIES = {EXACT: 0.08, NEAR: 0.08}
COPIED = 10
"""Copies of each pair that is copied."""
SCORERS = {"caption of another class": 0.2}
"""Faults of the pairs that a scorer learns from: it knows no other kind."""


@dataclass(frozen=True, eq=False)
class Pool:
    """N pairs.

    Args:
        images: (N, 32, 32, 3) uint8.
        texts: N.
        kind: N, `CLEAN`, or a key of `WRONG` or `COPIES`.
        facts: (N, 4) class, number, place and time that the picture was drawn by, as indices.
    """

    images: np.ndarray
    texts: list[str]
    kind: np.ndarray
    facts: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """(N,) flags of the pairs whose caption does not say what the picture shows."""
        return np.isin(self.kind, list(WRONG))

    @property
    def rank(self) -> np.ndarray:
        """(24,) of each class, 0 for the most frequent."""
        return np.argsort(np.argsort(-np.bincount(self.facts[:, 0], minlength=len(CLASSES)), kind="stable"))


def drawn_pool(count: int, seed: int, faults: dict[str, float] | None = None) -> Pool:
    """A pool.

    Args:
        faults: kind -> share; None for all of `WRONG` and `COPIES`.
    """
    random = np.random.default_rng(seed)
    faults = WRONG | COPIES if faults is None else faults
    kind = random.choice([CLEAN, *faults], count, p=[1 - sum(faults.values()), *faults.values()])
    facts = _facts(count, random)
    images = pictures(facts, random)
    texts = [caption(row, random) for row in facts]
    for row, fault in enumerate(kind):
        if fault == "blank picture":
            images[row] = random.integers(0, 256, 3)
        elif fault == "picture of text":
            images[row] = _written(texts[row], random)
        elif fault in WRONG:
            texts[row] = _wrong_text(fault, facts[row], facts, random)
    clean = np.flatnonzero(kind == CLEAN)
    for fault in COPIES:
        rows = np.flatnonzero(kind == fault)
        sources = random.choice(clean, max(1, len(rows) // COPIED), replace=False)[np.arange(len(rows)) // COPIED - 1]
        for row, source in zip(rows, sources):
            facts[row], texts[row] = facts[source], texts[source]
            images[row] = images[source] if fault == EXACT else _changed(images[source], random)
    unchanged = [row for row in np.flatnonzero(kind == ONE_WORD) if texts[row].endswith(_told(facts[row], *WHOLE))]
    kind[unchanged] = CLEAN
    return Pool(images, texts, kind, facts)


def test_pairs(seed: int, each: int) -> Pool:
    """Right pairs with whole captions: all that there is to show as often as the rest.

    Args:
        each: pictures of each combination of class, number, place and time.
    """
    random = np.random.default_rng(seed)
    combinations = np.array(list(product(range(len(CLASSES)), range(3), range(4), range(2))))
    facts = np.repeat(combinations, each, axis=0)
    texts = [whole_caption(row) for row in facts]
    return Pool(pictures(facts, random), texts, np.full(len(facts), CLEAN), facts)


def caption(facts: np.ndarray, random: np.random.Generator) -> str:
    """A text about a picture that leaves out what nobody says."""
    said = random.random(3) < SAID
    return STARTS[random.integers(len(STARTS))] + _told(facts, *said)


def whole_caption(facts: np.ndarray) -> str:
    return STARTS[1] + _told(facts, *WHOLE)


def prompts(number: int) -> list[str]:
    """Texts that name a class, from a picture of one to three."""
    return [STARTS[1] + _told(np.array([number, many, 0, 0]), True, False, False) for many in range(len(NUMBERS))]


def plural(name: str) -> str:
    return f"{name}es" if name.endswith("s") else f"{name}s"


def pictures(facts: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N, 4) facts -> (N, 32, 32, 3) uint8."""
    of, number, place, time = facts.T
    count = len(facts)
    colours = np.array(list(COLOURS.values()))[of // len(SHAPES)] + random.integers(-25, 26, (count, 3))
    level = np.array([GROUND[each] for each in TIMES])[time] + random.integers(-25, 26, count)
    images = 18 * random.standard_normal((count, SIDE, SIDE, 3), np.float32)
    images += level[:, None, None, None].astype(np.float32)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    for thing, shape in product(range(len(NUMBERS)), range(len(SHAPES))):
        there = np.flatnonzero((thing <= number) & (of % len(SHAPES) == shape))
        along = 16 + 10 * (thing - number[there] / 2) + random.uniform(-1, 1, len(there))
        across = np.where(place[there] % 2 == 0, 8, 24) + random.uniform(-2, 2, len(there))
        upright = place[there] < 2  # at the left or right they stand above each other
        x, y = np.where(upright, across, along), np.where(upright, along, across)
        x, y, radius = (each[:, None, None].astype(np.float32) for each in (x, y, random.uniform(3.6, 5.0, len(there))))
        inside = _inside(shape, columns - x, rows - y, radius)
        images[there] = np.where(inside[..., None], colours[there, None, None].astype(np.float32), images[there])
    return np.clip(images, 0, 255, out=images).astype(np.uint8)


def _facts(count: int, random: np.random.Generator) -> np.ndarray:
    """(N, 4), of classes with a long tail."""
    share = 1 / np.arange(1, len(CLASSES) + 1)
    order = random.permutation(len(CLASSES))
    of = order[random.choice(len(CLASSES), count, p=share / share.sum())]
    by_night = random.random(count) < np.where(of % len(SHAPES) == SHAPES.index("ring"), BY_NIGHT, OTHERS_BY_NIGHT)
    return np.stack([of, random.integers(3, size=count), random.integers(4, size=count), ~by_night], axis=1).astype(int)


def _inside(shape: int, right: np.ndarray, down: np.ndarray, r: np.ndarray) -> np.ndarray:
    """(M, 32, 32) flags of the pixels of one thing each, by their places from its centre and its radius (M, 1, 1)."""
    far = np.maximum(abs(right), abs(down))
    match SHAPES[shape]:
        case "circle":
            return right**2 + down**2 < r**2
        case "square":
            return far < 0.85 * r
        case "triangle":
            return (abs(down) < r) & (abs(right) < (down + r) / 2)
        case "cross":
            return (np.minimum(abs(right), abs(down)) < 0.35 * r) & (far < r)
        case "diamond":
            return abs(right) + abs(down) < 1.15 * r
    return (right**2 + down**2 < r**2) & (right**2 + down**2 > (0.5 * r) ** 2)


def _told(facts: np.ndarray, number: bool, place: bool, time: bool) -> str:
    of, many, where, when = facts
    words = [NUMBERS[many]] if number else []
    words.append(plural(NAMES[of]) if many else NAMES[of])
    words += [f"at the {PLACES[where]}"] if place else []
    words += [f"by {TIMES[when]}"] if time else []
    return " ".join(words)


def _wrong_text(fault: str, facts: np.ndarray, every: np.ndarray, random: np.random.Generator) -> str:
    if fault == "empty caption":
        return ""
    if fault == "caption fits everything":
        return VAGUE[random.integers(len(VAGUE))]
    if fault == ONE_WORD:
        part = random.integers(1, 4)
        other = facts.copy()
        other[part] = (facts[part] + random.integers(1, (3, 4, 2)[part - 1])) % (3, 4, 2)[part - 1]
        if part == 1:  # "circle" and "circles" would be a second word: "one" stays, and such a pair is right
            other[1] = 3 - facts[1] if facts[1] else 0
        return STARTS[random.integers(len(STARTS))] + _told(other, *WHOLE)
    near = fault == "caption of a near class"
    while True:  # as frequent among wrong captions as among right ones
        other = every[random.integers(len(every))]
        if other[0] != facts[0] and near == _alike(other[0], facts[0]):
            break
    return caption(other, random)


def _alike(one: int, other: int) -> bool:
    """Whether two classes have colour or shape in common."""
    return one // len(SHAPES) == other // len(SHAPES) or one % len(SHAPES) == other % len(SHAPES)


def _written(text: str, random: np.random.Generator) -> np.ndarray:
    """A picture of the caption's letters."""
    picture = Image.new("RGB", (SIDE, SIDE), (235, 235, 235))
    words = text.split()
    for line in range(3):
        some = " ".join(words[line * 2 : line * 2 + 2])
        ImageDraw.Draw(picture).text((1, 1 + 10 * line), some, fill=tuple(random.integers(0, 80, 3).tolist()))
    return np.asarray(picture)


def _changed(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A near copy: cropped by a pixel or two, resized, and saved anew as JPEG."""
    left, top, right, bottom = random.integers(0, 3, 4)
    picture = Image.fromarray(image).crop((left, top, SIDE - right, SIDE - bottom)).resize((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(random.integers(60, 96)))
    return np.asarray(Image.open(buffer))
