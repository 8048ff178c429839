"""The pen that things are drawn with: where, how large, how turned, in which colours and strokes is its own affair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

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
STEPS_A_TURN = 72


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


def arc(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360) -> np.ndarray:
    """Part of an ellipse around (x, y), from angle `start` to `stop` in degrees: 0 is right, 90 is down."""
    steps = max(8, round(abs(stop - start) / 360 * STEPS_A_TURN))
    angles = np.radians(np.linspace(start, stop, steps + 1))
    return np.stack([x + rx * np.cos(angles), y + (rx if ry is None else ry) * np.sin(angles)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """A rectangle between two corners."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def rounded_box(x0: float, y0: float, x1: float, y1: float, radius: float) -> np.ndarray:
    """A rectangle with round corners."""
    corners = ((x1, y1, 0), (x0, y1, 90), (x0, y0, 180), (x1, y0, 270))
    parts = []
    for x, y, start in corners:
        inwards = np.sign((x0 + x1) / 2 - x) * radius, np.sign((y0 + y1) / 2 - y) * radius
        parts.append(arc(x + inwards[0], y + inwards[1], radius, start=start, stop=start + 90))
    return np.concatenate(parts)


def star_outline(points: int, inner: float, outer: float = 1.0, turn: float = -90.0) -> np.ndarray:
    """A star whose corners lie by turns at the radius `outer` and `inner`; the first corner at angle `turn`."""
    angles = np.radians(turn + np.arange(2 * points) * 180 / points)
    radii = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def smooth(points: Sequence[tuple[float, float]], closed: bool = True, steps: int = 10) -> np.ndarray:
    """A smooth curve through all points (Catmull and Rom, "A class of local interpolating splines", 1974)."""
    p = np.asarray(points, dtype=float)
    around = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    p0, p1, p2, p3 = (around[i : len(around) - 3 + i, None] for i in range(4))  # (segments, 1, 2) each
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    curve = p1 + t * (p2 - p0) / 2 + t**2 * (p0 - 2.5 * p1 + 2 * p2 - p3 / 2) + t**3 * (1.5 * (p1 - p2) + (p3 - p0) / 2)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def mirrored(half: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A right half, told from top to bottom, and its mirror image: a closed outline."""
    return [*half, *((-x, y) for x, y in reversed(half) if x != 0)]


def moved(points: np.ndarray, x: float = 0, y: float = 0, scale: float = 1, turn: float = 0) -> np.ndarray:
    """Points scaled, then turned by degrees, then shifted."""
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return scale * np.asarray(points) @ np.array([[c, s], [-s, c]]) + (x, y)
