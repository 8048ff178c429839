"""The sample: everyday things drawn by code, which need no download and no licence."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ...core.contracts import DomainData, Item, Label
from ...core.data import Drawing
from ...core.forgetting import draw

KINDS = (
    *("banana", "candle", "car", "cup", "hourglass"),
    *("house", "ladybug", "pencil", "traffic light", "umbrella"),
)
OTHERS = ("tree", "ladder", "envelope", "star", "key", "fish", "apple", "clock", "mushroom", "butterfly")
"""What stands around the thing; none of it is one of the classes."""
OTHER_NUMBERS = 3
GRID = 3
SIZES = (0.75, 1.0)
"""Of the thing's picture, in sides of the whole one."""
DRAWING = Drawing(__file__, "4")
FIRST = 1000
"""The number of the first drawing: those before it show what a training forgets, and are not learned from."""
IMAGES_PER_SPLIT = {"train": 16, "val": 4, "test": 28}
NOTE = (
    "Drawn data: the sample's pictures are drawn by vladapt itself, not photographed; its numbers show how methods "
    "differ (vladapt compare --shots 4), nothing about photos. DTD and Flowers102 tell methods apart on photographs."
)


def drawn_things() -> DomainData:
    """480 pictures of 10 things, with splits; the same on every machine."""
    items = [
        DRAWING.item(
            f"{kind}/{number}",
            kind,
            FIRST + number,
            target=Label(label),
            split=split,
            kind=label,
            number=FIRST + number,
        )
        for label, kind in enumerate(KINDS)
        for number, split in enumerate(DomainData.drawn_splits(IMAGES_PER_SPLIT))
    ]
    return DomainData.drawn("drawn-things", NOTE, items, render_item, KINDS)


def render_item(item: Item) -> np.ndarray:
    """(224, 224, 3) uint8: the thing small among others, partly covered, in poor light and out of focus."""
    kind, number = int(item.decode["kind"]), int(item.decode["number"])
    rng = np.random.default_rng([int(DRAWING.version), kind, number])
    thing = Image.fromarray(draw(KINDS[kind], number))
    scene = _others(rng, thing.width)
    side = round(rng.uniform(*SIZES) * thing.width)
    left, top = (int(each) for each in rng.integers(0, thing.width - side + 1, 2))
    place = (left, top)
    scene.paste(thing.resize((side, side), Image.Resampling.BICUBIC), place)
    _cover(rng, scene, place, side)
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    pixels = np.asarray(scene, dtype=np.float32) / 255 * rng.uniform(0.5, 1)
    pixels += rng.normal(0, rng.uniform(0.01, 0.12), pixels.shape)
    return Drawing.pixels(pixels)


def _others(rng: np.random.Generator, width: int) -> Image.Image:
    """Drawings of other things side by side, which fill the picture."""
    side = -(-width // GRID)
    scene = Image.new("RGB", (width, width))
    for cell, name in enumerate(rng.choice(OTHERS, GRID * GRID)):
        other = Image.fromarray(draw(str(name), int(rng.integers(OTHER_NUMBERS))))
        scene.paste(other.resize((side, side)), (cell % GRID * side, cell // GRID * side))
    return scene


def _cover(rng: np.random.Generator, scene: Image.Image, place: tuple[int, int], side: int) -> None:
    """A bar of one colour over a part of the thing."""
    width, at = rng.uniform(0.1, 0.3) * side, rng.uniform(0, 0.7) * side
    left, top = place
    across = (left, top + at, left + side, top + at + width)
    along = (left + at, top, left + at + width, top + side)
    colour = tuple(rng.integers(0, 256, 3).tolist())
    ImageDraw.Draw(scene).rectangle(across if rng.random() < 0.5 else along, fill=colour)
