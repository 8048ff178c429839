"""The sample of regression: settlements from above with the share of their ground that roofs cover, drawn by this code.

Forty places differ in soil, light and haze, which say nothing about the share; the six scenes of a place look alike, so
that a place is a group. Roofs of any colour cover 0 to about 60 % of the ground.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ...core.contracts import DomainData, Item, Number
from ...core.data import Drawing

DRAWING = Drawing(__file__, "1")
SIDE, PLACES, PER_PLACE = 64, 40, 6
COLUMN = "built_share"
SPLITS = {"train": 20, "val": 10, "test": 10}
"""Places."""
NOTE = (
    "Drawn data: the sample's scenes are drawn by vladapt itself, not seen from space; its numbers show that the "
    "pipeline works, nothing about remote sensing."
)


def drawn_shares() -> DomainData:
    """240 scenes of 40 places, with splits; the same on every machine."""
    items = [
        _item(place, number, split)
        for place, split in enumerate(DomainData.drawn_splits(SPLITS))
        for number in range(PER_PLACE)
    ]
    names = {Number.NAME: (COLUMN,)}
    return DomainData.drawn("drawn settlements", NOTE, items, render_item, kind="numbers", number_names=names)


def render_item(item: Item) -> np.ndarray:
    """(64, 64, 3) uint8."""
    return render(int(item.decode["place"]), int(item.decode["number"]))[0]


def _item(place: int, number: int, split: str) -> Item:
    target = Number(round(render(place, number)[1], 4))
    which = {"place": place, "number": number}
    id_, group = f"place-{place:02}-{number}", f"place {place}"
    return DRAWING.item(id_, place, number, target=target, group=group, split=split, **which)


@lru_cache(maxsize=PLACES * PER_PLACE)
def render(place: int, number: int) -> tuple[np.ndarray, float]:
    """(64, 64, 3) uint8: a scene of a place, and the share of its ground that roofs cover."""
    of_place, rng = np.random.default_rng([7, place]), np.random.default_rng([7, place, number])
    soil, haze, light = of_place.uniform(0.15, 0.55, 3), of_place.uniform(0, 0.2), of_place.uniform(0.8, 1.15)
    colours = soil + 0.05 * np.kron(rng.normal(size=(16, 16)), np.ones((4, 4)))[..., None]
    roofs = np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(rng.integers(0, 34)):
        height, width = rng.integers(4, 11, 2)
        top, left = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
        house = np.zeros_like(roofs)
        house[top : top + height, left : left + width] = True
        colours[np.roll(house, (2, 2), (0, 1)) & ~roofs] *= 0.6  # its shadow
        roofs |= house
        colours[house] = rng.uniform((0.5, 0.25, 0.2), (0.9, 0.85, 0.85))
    seen = Drawing.hazy(colours, light, haze) + rng.normal(0, 0.01, colours.shape)
    return Drawing.pixels(seen), float(roofs.mean())
