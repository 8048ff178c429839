"""The things that can be drawn, by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from ...errors import UnknownNameError
from . import animals, household, nature
from .pen import COLOURS, FINER, SIDE, Pen

THINGS: dict[str, Callable[[Pen], None]] = {
    "sun": nature.sun,
    "moon": nature.moon,
    "star": nature.star,
    "rainbow": nature.rainbow,
    "lightning": nature.lightning,
    "tree": nature.tree,
    "flower": nature.flower,
    "mushroom": nature.mushroom,
    "apple": nature.apple,
    "banana": nature.banana,
    "fish": animals.fish,
    "cat": animals.cat,
    "butterfly": animals.butterfly,
    "snail": animals.snail,
    "ladybug": animals.ladybug,
    "umbrella": household.umbrella,
    "key": household.key,
    "clock": household.clock,
    "cup": household.cup,
    "ladder": household.ladder,
    "envelope": household.envelope,
    "hourglass": household.hourglass,
    "candle": household.candle,
    "pencil": household.pencil,
    "house": nature.house,
    "car": nature.car,
    "sailboat": nature.sailboat,
    "traffic light": nature.traffic_light,
    "heart": nature.heart,
    "arrow": nature.arrow,
}
"""Name -> what draws it with a pen."""
BACKGROUNDS = ("white", "cream", "silver", "sky", "lime", "tan", "pink", "teal", "blue", "grey")
CANDIDATES = 4
KEPT = 256
"""Drawings of 147 KiB that a process keeps: what is measured before a training is measured after it too."""
ANIMALS = (
    "dog horse cow pig sheep rabbit elephant giraffe lion zebra monkey bear owl eagle penguin parrot duck chicken frog "
    "snake turtle crocodile shark whale octopus crab bee ant"
)
FOOD = "bread cheese pizza sandwich egg carrot potato tomato corn grape strawberry onion"
HOUSEHOLD = (
    "chair table bed sofa mirror bathtub refrigerator television telephone camera computer book newspaper spoon fork "
    "bottle basket broom hammer saw nail rope backpack suitcase robot doll"
)
CLOTHES = "shirt trousers shoe sock hat glove dress necktie belt"
MUSIC = "guitar piano drum violin trumpet"
VEHICLES = "airplane train bicycle motorcycle bus helicopter rocket tractor"
PLACES = "bridge castle church lighthouse tent mountain beach waterfall volcano road fence door"

OTHER_NAMES: tuple[str, ...] = tuple(" ".join((ANIMALS, FOOD, HOUSEHOLD, CLOTHES, MUSIC, VEHICLES, PLACES)).split(" "))
"""100 names, none of which is right for one of the drawings, nor a wider or a narrower name of what they show."""


@lru_cache(maxsize=KEPT)
def draw(name: str, number: int) -> np.ndarray:
    """(224, 224, 3) uint8, not to be changed: drawing `number` of a thing, always the same.

    Raises:
        UnknownNameError: no such thing.
    """
    if name not in THINGS:
        raise UnknownNameError(f"no drawing of '{name}'; there are: {', '.join(THINGS)}")
    rng = np.random.default_rng([zlib.crc32(name.encode()), number])
    pen = Pen(rng, outlined=bool(rng.random() < 0.7))
    THINGS[name](pen)
    sheet = np.asarray(pen.sheet.reduce(FINER), dtype=np.float32) / 255  # (S, S, 4)
    thing, cover = sheet[..., :3], sheet[..., 3:]
    background = _background(rng, away_from=(thing * cover).sum((0, 1)) / cover.sum())
    background = background * (1 - _shadow(rng, cover))
    picture = cover * thing * _light(rng, 0.25) + (1 - cover) * background
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(0.005, 0.025)
    return (np.clip(picture + noise, 0, 1) * 255).round().astype(np.uint8)


def _background(rng: np.random.Generator, away_from: np.ndarray) -> np.ndarray:
    """(S, S, 3): of some colours the one that the thing differs most from, running into another shade of it."""
    chosen = [np.array(COLOURS[name]) / 255 for name in rng.choice(BACKGROUNDS, CANDIDATES, replace=False)]
    colour = max(chosen, key=lambda c: float(((c - away_from) ** 2).sum()))
    return colour.astype(np.float32) * _light(rng, 0.15)


def _light(rng: np.random.Generator, strength: float) -> np.ndarray:
    """(S, S, 1) around 1: brighter towards one side."""
    angle = rng.uniform(0, 2 * np.pi)
    along = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = np.cos(angle) * along[None, :] + np.sin(angle) * along[:, None]
    return (1 + strength * rng.uniform(0.3, 1) * slope)[..., None]


def _shadow(rng: np.random.Generator, cover: np.ndarray) -> np.ndarray:
    """(S, S, 1) in 0..1: a soft one beside the thing."""
    mask = Image.fromarray((cover[..., 0] * 255).astype(np.uint8))
    right, down = (int(shift) for shift in rng.integers(2, 8, 2))
    beside = Image.new("L", mask.size)
    beside.paste(mask, (right, down))
    blurred = np.asarray(beside.filter(ImageFilter.GaussianBlur(5)), dtype=np.float32) / 255
    return rng.uniform(0, 0.4) * blurred[..., None]
