"""The sample: scenes from above, drawn by this code, with no satellite and no licence.

Twelve kinds of land use differ in pattern: furrows, crowns, roofs along streets, a bending river, tanks.
Light, haze, noise, place, turn and height of flight vary at random and say nothing about the kind. Every picture is
drawn when it is asked for, from its kind and number alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ...core.contracts import Captions, DomainData, Item, Label
from ...core.data import Drawing

DRAWING = Drawing(__file__, "2")
SIDE = 96
FINER = 2
IMAGES_PER_SPLIT = {"train": 16, "val": 4, "test": 10}
PAIR_SPLITS = ("train", "test", "train", "train", "val", "train", "train")
CAPTIONS = (
    "{0} in the west and {1} in the east",
    "a satellite image of {0} beside {1}",
    "{1} lies to the right of {0}",
)
NOTE = (
    "Drawn data: the sample's scenes are drawn by vladapt itself, not seen from space; its numbers show that the "
    "pipeline works, nothing about remote sensing. EuroSAT and RESISC45 tell methods apart."
)


def drawn_scenes() -> DomainData:
    """360 scenes of 12 kinds, with splits; the same on every machine."""
    splits = DomainData.drawn_splits(IMAGES_PER_SPLIT)
    items = [
        DRAWING.item(
            f"{kind.replace(' ', '-')}/{number:02d}",
            kind,
            number,
            target=Label(label),
            split=split,
            kind=label,
            number=number,
        )
        for label, kind in enumerate(KINDS)
        for number, split in enumerate(splits)
    ]
    return DomainData.drawn("drawn-scenes", NOTE, items, render_item, KINDS)


def drawn_scene_pairs() -> DomainData:
    """132 scenes of two kinds of land each, with three captions; the same on every machine."""
    kinds, items = list(KINDS), []
    for west, of_west in enumerate(kinds):
        for east, of_east in enumerate(kinds):
            if west != east:
                split = PAIR_SPLITS[(west * len(kinds) + east) % len(PAIR_SPLITS)]
                decode = {"kind": west, "east": east, "number": 100 + east}
                texts = Captions(tuple(text.format(of_west, of_east) for text in CAPTIONS))
                name = f"{of_west} and {of_east}".replace(" ", "-")
                items.append(DRAWING.item(name, of_west, of_east, target=texts, split=split, **decode))
    return DomainData.drawn("drawn-scenes", NOTE, items, render_item, kind="captions")


def render_item(item: Item) -> np.ndarray:
    """(96, 96, 3) uint8; of two kinds, the second in the eastern half."""
    shown = render(int(item.decode["kind"]), int(item.decode["number"]))
    if "east" in item.decode:
        shown[:, SIDE // 2 :] = _eastern_half(int(item.decode["east"]), int(item.decode["number"]))
    return shown


@lru_cache(maxsize=16)
def _eastern_half(kind: int, number: int) -> np.ndarray:
    """(96, 48, 3) of a scene, which eleven pictures share."""
    return render(kind, number)[:, SIDE // 2 :].copy()


def render(kind: int, number: int) -> np.ndarray:
    """(96, 96, 3) uint8: scene `number` of a kind."""
    ground = _Ground(np.random.default_rng([kind, number]))
    list(KINDS.values())[kind](ground)
    return ground.developed()


class _Ground:
    """A piece of land, painted at `FINER` times its size."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.side = rng, SIDE * FINER
        self.colours = np.zeros((self.side, self.side, 3), np.float64)
        self.turn, self.height = rng.uniform(0, np.pi), rng.uniform(0.6, 1.5)
        y, x = self.height * (np.mgrid[: self.side, : self.side] / self.side - 0.5)
        cosine, sine = np.cos(self.turn), np.sin(self.turn)
        self.u, self.v = cosine * x + sine * y, cosine * y - sine * x  # (side, side)

    def fill(self, colour, texture: float = 0.04, grain: float = 6.0) -> None:
        """All in one colour, mottled."""
        self.colours[:] = np.array(colour)
        self.colours += texture * Drawing.clouds(self.rng, self.side, grain)[..., None]

    def paint(self, mask: np.ndarray, colour) -> None:
        """A colour where a mask (side, side) says."""
        self.colours[mask] = np.array(colour) + self.rng.normal(0, 0.015, 3)

    def box(self, u: float, v: float, width: float, height: float) -> np.ndarray:
        return (abs(self.u - u) < width / 2) & (abs(self.v - v) < height / 2)

    def disc(self, u: float, v: float, radius: float) -> np.ndarray:
        mask, cosine, sine = np.zeros((self.side, self.side), bool), np.cos(self.turn), np.sin(self.turn)
        scale = self.side / self.height  # pixels per unit; only those around the disc are looked at
        around = []
        for middle in (sine * u + cosine * v, cosine * u - sine * v):
            middle, reach = scale * middle + self.side / 2, scale * radius + 2
            around.append(slice(max(0, int(middle - reach)), max(0, int(middle + reach) + 1)))
        here = tuple(around)
        mask[here] = np.hypot(self.u[here] - u, self.v[here] - v) < radius
        return mask

    def shadow(self, mask: np.ndarray, by: int) -> None:
        """Darkens what lies to the lower right of a mask."""
        moved = np.zeros_like(mask)
        moved[by:, by:] = mask[:-by, :-by]
        self.colours[moved & ~mask] *= 0.6

    def developed(self) -> np.ndarray:
        """Light and season, clouds, haze and noise; then brought to size."""
        rng = self.rng
        light = rng.uniform(0.7, 1.2) * rng.uniform(0.8, 1.2, 3)
        seen = Drawing.hazy(self.colours, light, rng.uniform(0, 0.5))
        clouds = Drawing.soft(4 * (rng.uniform(0, 2) - Drawing.clouds(rng, self.side, self.side / 12)))[..., None]
        seen = seen * (1 - clouds) + 0.95 * clouds
        seen = seen.reshape(SIDE, FINER, SIDE, FINER, 3).mean(axis=(1, 3))
        seen = seen + rng.normal(0, rng.uniform(0.01, 0.08), seen.shape)
        return Drawing.pixels(seen)


def _farmland(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.45, 0.42, 0.25))
    edges = np.sort(rng.uniform(-0.8, 0.8, 6))
    for low, high in zip([-2, *edges], [*edges, 2]):
        colour = rng.uniform((0.25, 0.35, 0.12), (0.65, 0.6, 0.35))
        furrows = 0.04 * np.sin(ground.v * rng.uniform(120, 220))[..., None]
        inside = (ground.u > low + 0.008) & (ground.u < high - 0.008)
        ground.colours[inside] = (colour + furrows)[inside]


def _meadow(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill(rng.uniform((0.28, 0.4, 0.14), (0.5, 0.52, 0.25)), 0.05, 12)
    for u, v in rng.uniform(-1, 1, (rng.integers(2, 30), 2)):
        _tree(ground, u, v, rng.uniform(0.015, 0.03))


def _forest(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.07, 0.16, 0.06), 0.03, 2)
    for u, v in rng.uniform(-1, 1, (700, 2)):
        _tree(ground, u, v, rng.uniform(0.015, 0.035))


def _orchard(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill(rng.uniform((0.35, 0.4, 0.18), (0.5, 0.45, 0.3)), 0.04, 5)
    for u in np.arange(-1, 1, rng.uniform(0.08, 0.11)):
        for v in np.arange(-1, 1, rng.uniform(0.06, 0.08)):
            _tree(ground, u + rng.normal(0, 0.006), v + rng.normal(0, 0.006), rng.uniform(0.022, 0.03))


def _tree(ground: _Ground, u: float, v: float, radius: float) -> None:
    crown = ground.disc(u, v, radius)
    if crown.any():
        ground.shadow(crown, 3)
        ground.paint(crown, ground.rng.uniform((0.08, 0.25, 0.06), (0.18, 0.4, 0.14)))


def _river(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill(rng.uniform((0.25, 0.35, 0.15), (0.4, 0.45, 0.22)), 0.04, 8)
    middle = 0.12 * np.sin(ground.u * rng.uniform(5, 9) + rng.uniform(0, 6)) + rng.uniform(-0.15, 0.15)
    width = rng.uniform(0.05, 0.1)
    ground.paint(abs(ground.v - middle) < width + 0.02, (0.55, 0.5, 0.35))
    ground.paint(abs(ground.v - middle) < width, rng.uniform((0.1, 0.2, 0.25), (0.2, 0.32, 0.38)))


def _beach(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.06, 0.25, 0.4), 0.02, 4)
    shore = ground.v + 0.03 * Drawing.clouds(rng, ground.side, 14) + rng.uniform(-0.12, 0.12)
    ground.paint(shore > 0, (0.16, 0.45, 0.5))
    ground.paint((shore > 0.04) & (shore < 0.06), (0.9, 0.93, 0.93))
    ground.paint(shore > 0.06, (0.85, 0.77, 0.58))
    ground.paint(shore > 0.25, (0.3, 0.4, 0.2))


def _dense(ground: _Ground) -> None:
    _houses(ground, lots=1.0, between=0.075)


def _sparse(ground: _Ground) -> None:
    _houses(ground, lots=0.4, between=0.13)


def _houses(ground: _Ground, lots: float, between: float) -> None:
    """Roofs on both sides of streets, on so many of the lots, trees on the others."""
    rng = ground.rng
    ground.fill((0.25, 0.36, 0.18), 0.05, 3)
    for v in np.arange(-1, 1, 0.24 if lots == 1 else 0.34):
        ground.paint(abs(ground.v - v) < 0.02, (0.5, 0.5, 0.5))
        for side in (-between, between):
            for u in np.arange(-1, 1, 0.1) + rng.uniform(-0.02, 0.02):
                if rng.random() > lots:
                    _tree(ground, u, v + side, rng.uniform(0.02, 0.035))
                    continue
                roof = ground.box(u, v + side, rng.uniform(0.05, 0.07), rng.uniform(0.05, 0.065))
                ground.shadow(roof, 3)
                ground.paint(roof, rng.uniform((0.45, 0.2, 0.15), (0.75, 0.5, 0.42)))


def _industrial(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.48, 0.47, 0.45), 0.03, 5)
    for u in np.arange(-0.85, 0.9, 0.34):
        for v in np.arange(-0.84, 0.9, 0.28):
            hall = ground.box(u, v, rng.uniform(0.2, 0.3), rng.uniform(0.14, 0.22))
            ground.shadow(hall, 6)
            ground.paint(hall, rng.uniform((0.55, 0.58, 0.62), (0.88, 0.9, 0.93)))
            ground.colours[hall & (np.sin(ground.u * 140) > 0.7)] *= 0.88


def _tanks(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.5, 0.46, 0.38), 0.03, 6)
    radius = rng.uniform(0.07, 0.11)
    for u in np.arange(-0.84, 0.9, 0.28):
        for v in np.arange(-0.84, 0.9, 0.28):
            tank = ground.disc(u, v, radius)
            ground.shadow(tank, 7)
            ground.paint(tank, rng.uniform((0.8, 0.8, 0.8), (0.95, 0.95, 0.95)))
            ground.paint(ground.disc(u, v, radius * 0.3), (0.7, 0.7, 0.7))


def _runway(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.42, 0.47, 0.27), 0.03, 8)
    v = rng.uniform(-0.12, 0.12)
    ground.paint(abs(ground.v - v) < 0.07, (0.33, 0.33, 0.35))
    ground.paint((abs(ground.v - v) < 0.005) & (np.sin(ground.u * 60) > 0), (0.92, 0.92, 0.92))
    ground.paint(abs(abs(ground.v - v) - 0.063) < 0.004, (0.92, 0.92, 0.92))
    ground.paint(abs(ground.u - rng.uniform(-0.3, 0.3)) < 0.025, (0.38, 0.38, 0.4))


def _parking(ground: _Ground) -> None:
    rng = ground.rng
    ground.fill((0.3, 0.3, 0.32), 0.015, 4)
    for v in np.arange(-0.9, 0.95, 0.13):
        for u in np.arange(-0.9, 0.95, 0.05):
            ground.paint(ground.box(u - 0.025, v, 0.005, 0.08), (0.8, 0.8, 0.8))
            if rng.random() < 0.75:
                ground.paint(ground.box(u, v, 0.03, 0.065), rng.choice([0.1, 0.5, 0.7, 0.9]) * rng.uniform(0.7, 1, 3))


KINDS: dict[str, Callable[[_Ground], None]] = {
    "beach": _beach,
    "dense residential area": _dense,
    "farmland": _farmland,
    "forest": _forest,
    "industrial area": _industrial,
    "meadow": _meadow,
    "orchard": _orchard,
    "parking lot": _parking,
    "river": _river,
    "runway": _runway,
    "sparse residential area": _sparse,
    "storage tanks": _tanks,
}
"""Class name -> what paints it."""
