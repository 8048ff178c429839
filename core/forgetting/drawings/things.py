"""The things that can be drawn, by name."""

from __future__ import annotations

from collections.abc import Callable

from . import animals, household, nature, outdoors
from .pen import Pen

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
    "house": outdoors.house,
    "car": outdoors.car,
    "sailboat": outdoors.sailboat,
    "traffic light": outdoors.traffic_light,
    "heart": outdoors.heart,
    "arrow": outdoors.arrow,
}
"""Name -> what draws it with a pen."""
