"""Drawings of coloured shapes and sentences about them: a scene is a number, so nothing needs to be stored."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from ...contracts.items import Decoded

SIDE = 96
FINER = 2
"""Shapes are drawn at so many times the final size, then averaged: edges become smooth."""
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (205, 45, 40),
    "blue": (45, 85, 200),
    "green": (45, 150, 70),
    "yellow": (245, 205, 50),
    "purple": (130, 65, 165),
    "orange": (240, 135, 30),
}
BACKGROUNDS = {"white": (250, 250, 250), "grey": (150, 150, 150), "black": (25, 25, 25), "pink": (250, 200, 215)}
RELATIONS = ("above", "left of")
COUNTS = ("one", "two", "three")
RADII = (0.145, 0.09)
"""Of the main and of the other things, in sides of the drawing."""
CHOICES = (6, 5, 6, 5, 3, 3, len(RELATIONS), len(BACKGROUNDS))
"""Of shape, other shape, colour, other colour, count, other count, relation and background."""
SCENES = math.prod(CHOICES)


@dataclass(frozen=True)
class Things:
    """One to three equal shapes."""

    count: int
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """Some things above or left of others, which differ in shape and colour."""

    main: Things
    other: Things
    relation: str
    background: str


def scene(number: int) -> Scene:
    """Scene 0 to SCENES - 1, all different."""
    digits = [int(digit) for digit in np.unravel_index(number, CHOICES, order="F")]
    shape, other_shape = SHAPES[digits[0]], SHAPES[(digits[0] + 1 + digits[1]) % 6]
    colours = tuple(COLOURS)
    colour, other_colour = colours[digits[2]], colours[(digits[2] + 1 + digits[3]) % 6]
    return Scene(
        main=Things(digits[4] + 1, colour, shape),
        other=Things(digits[5] + 1, other_colour, other_shape),
        relation=RELATIONS[digits[6]],
        background=tuple(BACKGROUNDS)[digits[7]],
    )


def scene_number(shown: Scene) -> int:
    """The number of a scene."""
    colours = tuple(COLOURS)
    shape, colour = SHAPES.index(shown.main.shape), colours.index(shown.main.colour)
    digits = (
        shape,
        (SHAPES.index(shown.other.shape) - shape - 1) % 6,
        colour,
        (colours.index(shown.other.colour) - colour - 1) % 6,
        shown.main.count - 1,
        shown.other.count - 1,
        RELATIONS.index(shown.relation),
        tuple(BACKGROUNDS).index(shown.background),
    )
    return int(np.ravel_multi_index(digits, CHOICES, order="F"))


def with_colours_swapped(shown: Scene) -> Scene:
    """The scene whose shapes have each other's colours."""
    main, other = shown.main, shown.other
    return replace(shown, main=replace(main, colour=other.colour), other=replace(other, colour=main.colour))


@dataclass(frozen=True)
class SceneImages:
    """The drawings, as images of a PairSet: `source` is "scene-NUMBER.png". Sizes and places vary with the seed."""

    seed: int

    def read(self, source: str, offset: int | None, size: int | None) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.decode(source, offset, size)).save(buffer, "PNG")
        return buffer.getvalue()

    def decode(self, source: str, offset: int | None, size: int | None) -> Decoded:
        """(96, 96, 3) uint8."""
        return draw_scene(int(source.removeprefix("scene-").removesuffix(".png")), self.seed)


def scene_name(shown: Scene) -> str:
    """How a drawing is named."""
    return f"scene-{scene_number(shown):05d}.png"


def draw_scene(number: int, seed: int) -> Decoded:
    """(96, 96, 3) uint8, always the same for the same numbers."""
    rng = np.random.default_rng([seed, number])
    shown = scene(number)
    sheet = Image.new("RGB", (SIDE * FINER, SIDE * FINER), shaded(BACKGROUNDS[shown.background], rng))
    pen = ImageDraw.Draw(sheet)
    for things, radius, across in ((shown.main, RADII[0], 0.27), (shown.other, RADII[1], 0.75)):
        for position in range(things.count):
            along = (position + 0.5) / things.count
            x, y = (along, across) if shown.relation == "above" else (across, along)
            x, y = (value + rng.uniform(-0.02, 0.02) for value in (x, y))
            draw_shape(pen, things.shape, x, y, radius * rng.uniform(0.85, 1.05), shaded(COLOURS[things.colour], rng))
    return np.array(sheet.reduce(FINER))  # (S, S, 3)


def shaded(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, ...]:
    """Nearly the colour."""
    return tuple(int(np.clip(part + rng.integers(-12, 13), 0, 255)) for part in colour)


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, ...]) -> None:
    """One of `SHAPES` on a sheet of SIDE * FINER pixels; places and radius in shares of its side."""
    x, y, r = (value * SIDE * FINER for value in (x, y, radius))
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(1, int(r * 0.4)))
    elif shape == "square":
        pen.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=fill)
    elif shape == "cross":
        pen.rectangle((x - r, y - 0.32 * r, x + r, y + 0.32 * r), fill=fill)
        pen.rectangle((x - 0.32 * r, y - r, x + 0.32 * r, y + r), fill=fill)
    else:
        corners, inner = (3, 0.5) if shape == "triangle" else (5, 0.42)
        pen.polygon(_points(x, y, 1.1 * r, corners, inner), fill=fill)


def _points(x: float, y: float, radius: float, corners: int, inner: float) -> list[tuple[float, float]]:
    """Outer corners with inner ones between; with three and one half it is a triangle."""
    angles = np.pi * np.arange(2 * corners) / corners - np.pi / 2
    radii = radius * np.where(np.arange(2 * corners) % 2, inner, 1.0)
    return [(x + r * np.cos(angle), y + r * np.sin(angle)) for r, angle in zip(radii, angles, strict=True)]
