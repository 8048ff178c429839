"""The pen that things are drawn with: where, how large, how turned, in which colours and strokes is its own affair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .curves import arc

SIDE = 224
FINER = 2
"""Strokes are drawn at so many times the final size, then averaged: edges become smooth."""

SIZES = (0.52, 0.76)
REACH = 1.24
"""How far from the middle turn and stretch can take a corner of the square."""

COLOURS = {
    "red": (206, 43, 40),
    "orange": (238, 135, 36),
    "yellow": (247, 206, 48),
    "lime": (150, 190, 60),
    "green": (58, 140, 62),
    "teal": (36, 140, 140),
    "sky": (92, 168, 226),
    "blue": (44, 88, 176),
    "purple": (122, 70, 160),
    "pink": (236, 130, 168),
    "brown": (124, 78, 44),
    "tan": (206, 166, 116),
    "black": (34, 32, 34),
    "grey": (140, 142, 148),
    "silver": (198, 202, 208),
    "cream": (247, 238, 214),
    "white": (250, 250, 248),
}
Colour = tuple[int, int, int]


class Pen:
    """Draws outlines given in a square from -1 to 1 onto a transparent sheet.

    Args:
        rng: everything random comes from it.
        outlined: whether shapes get a dark outline.

    Attributes:
        sheet: (FINER * SIDE) squared, RGBA.
        rng: for what varies from one drawing of a thing to the next.
    """

    def __init__(self, rng: np.random.Generator, outlined: bool):
        self.rng, self.outlined = rng, outlined
        self.sheet = Image.new("RGBA", (FINER * SIDE, FINER * SIDE))
        self._draw = ImageDraw.Draw(self.sheet)
        self.ink = self._jittered(COLOURS["black"], 22)
        self._stroke = rng.uniform(1.2, 3.2) * FINER
        self._scale = rng.uniform(*SIZES)
        self._matrix = self._turned()
        self._shift = rng.uniform(-1, 1, 2) * (1 - REACH * self._scale)

    def colour(self, *names: str) -> Colour:
        """One of these colours, slightly off."""
        return self._jittered(COLOURS[names[int(self.rng.integers(len(names)))]], 14)

    def fill(self, points, colour: Colour, outline: bool = True) -> None:
        """A closed outline filled with a colour."""
        corners = self._on_sheet(points)
        self._draw.polygon(corners, fill=colour)
        if outline and self.outlined:
            self._line([*corners, *corners[:2]], self.ink, self._stroke)

    def disc(self, x: float, y: float, radius: float, colour: Colour, outline: bool = True) -> None:
        """A filled circle."""
        self.fill(arc(x, y, radius), colour, outline)

    def line(self, points, colour: Colour | None = None, width: float = 0.0) -> None:
        """An open line. `width` in units of the square; by default that of outlines. Ink where no colour is given."""
        thickness = width * self._scale * SIDE / 2 * FINER if width else max(self._stroke, 2 * FINER)
        self._line(self._on_sheet(points), colour or self.ink, thickness)

    def hole(self, points) -> None:
        """A closed outline through which the background shows."""
        corners = self._on_sheet(points)
        self._draw.polygon(corners, fill=(0, 0, 0, 0))
        if self.outlined:
            self._line([*corners, *corners[:2]], self.ink, self._stroke)

    def _turned(self) -> np.ndarray:
        """(2, 2): size, slight stretch and turn, and a mirror image half of the time."""
        turn = np.radians(self.rng.uniform(-14, 14))
        stretch = self.rng.uniform(0.92, 1.08) * self.rng.choice((-1, 1))
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        return self._scale * np.diag((stretch, 1.0)) @ rotation

    def _on_sheet(self, points) -> list[tuple[float, float]]:
        placed = np.asarray(points, dtype=float) @ self._matrix + self._shift
        return [tuple(point) for point in ((placed + 1) / 2 * FINER * SIDE).tolist()]

    def _line(self, corners: Sequence[tuple[float, float]], colour: Colour, thickness: float) -> None:
        width = max(1, round(thickness))
        self._draw.line(corners, fill=colour, width=width, joint="curve")
        for x, y in (corners[0], corners[-1]):  # round ends
            self._draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)

    def _jittered(self, colour: Colour, amount: int) -> Colour:
        moved = np.clip(np.array(colour) + self.rng.integers(-amount, amount + 1, 3), 0, 255)
        return tuple(int(value) for value in moved)
