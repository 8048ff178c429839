"""Outlines to draw with, as points (P, 2) in a square from -1 to 1: x to the right, y downwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS_A_TURN = 72


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
