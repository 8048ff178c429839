"""Things out of doors, and signs."""

from __future__ import annotations

import numpy as np

from .curves import box, rounded_box, smooth
from .pen import Pen


def house(pen: Pen) -> None:
    wall, roof = pen.colour("cream", "white", "tan", "yellow", "sky"), pen.colour("red", "brown", "grey", "blue")
    pen.fill(box(0.4, -0.85, 0.6, -0.3), pen.colour("red", "brown", "grey"))
    pen.fill(box(-0.75, -0.1, 0.75, 0.9), wall)
    pen.fill([(-0.98, -0.08), (0, -0.95), (0.98, -0.08)], roof)
    door, glass = pen.colour("brown", "red", "green", "blue"), (176, 216, 240)
    pen.fill(box(-0.18, 0.32, 0.2, 0.9), door)
    pen.disc(0.13, 0.62, 0.03, pen.colour("yellow"), outline=False)
    for x in (-0.6, 0.34):
        pen.fill(box(x, 0.12, x + 0.28, 0.44), glass)
        pen.line([(x + 0.14, 0.12), (x + 0.14, 0.44)], pen.colour("white", "brown"))
        pen.line([(x, 0.28), (x + 0.28, 0.28)], pen.colour("white", "brown"))


def car(pen: Pen) -> None:
    paint, glass = pen.colour("red", "blue", "yellow", "green", "silver", "white"), (176, 216, 240)
    cabin = [(-0.5, -0.08), (-0.3, -0.5), (0.32, -0.5), (0.6, -0.08)]
    body = [(-0.98, 0.3), (-0.98, 0.04), (-0.86, -0.06), (0.6, -0.1), (0.92, 0.0), (0.99, 0.14), (0.98, 0.34)]
    pen.fill(cabin, paint)
    pen.fill([(-0.38, -0.1), (-0.24, -0.42), (-0.02, -0.42), (-0.02, -0.1)], glass)
    pen.fill([(0.05, -0.1), (0.05, -0.42), (0.28, -0.42), (0.47, -0.1)], glass)
    pen.fill(body, paint)
    pen.line([(0.02, -0.06), (0.02, 0.3)])
    pen.line([(-0.14, 0.04), (-0.04, 0.04)])
    pen.disc(0.92, 0.1, 0.06, pen.colour("yellow"))
    pen.fill(box(-0.99, 0.04, -0.93, 0.16), pen.colour("red"))
    for x in (-0.56, 0.58):
        pen.disc(x, 0.34, 0.23, pen.colour("black"))
        pen.disc(x, 0.34, 0.11, pen.colour("silver"))


def sailboat(pen: Pen) -> None:
    sail = pen.colour("white", "cream", "red", "yellow", "orange")
    pen.line([(0, -1), (0, 0.5)], pen.colour("brown"), 0.06)
    pen.fill([(0.06, -0.92), (0.06, 0.3), (0.8, 0.3)], sail)
    pen.fill([(-0.06, -0.72), (-0.06, 0.3), (-0.6, 0.3)], sail)
    hull = [(-0.95, 0.42), (0.95, 0.42), (0.66, 0.82), (-0.62, 0.82)]
    pen.fill(hull, pen.colour("brown", "blue", "red", "white"))
    waves = np.linspace(-1, 1, 60)
    pen.line(np.stack([waves, 0.92 + 0.05 * np.sin(waves * 16)], axis=1), pen.colour("blue", "sky"), 0.08)


def traffic_light(pen: Pen) -> None:
    pen.fill(box(-0.07, 0.5, 0.07, 1), pen.colour("grey", "black"))
    pen.fill(rounded_box(-0.36, -1, 0.36, 0.62, 0.14), pen.colour("black", "grey", "yellow"))
    for y, name in ((-0.7, "red"), (-0.19, "yellow"), (0.32, "green")):
        pen.disc(0, y, 0.22, pen.colour(name))


def heart(pen: Pen) -> None:
    half = [(0.0, -0.48), (0.22, -0.78), (0.6, -0.86), (0.92, -0.56), (0.9, -0.12), (0.55, 0.38)]
    right = smooth([*half, (0, 0.92)], closed=False)
    pen.fill(np.concatenate([right, right[::-1] * (-1, 1)]), pen.colour("red", "red", "pink", "purple"))


def arrow(pen: Pen) -> None:
    thick, neck = pen.rng.uniform(0.16, 0.26), pen.rng.uniform(0.1, 0.3)
    head = [(neck, -thick), (neck, -0.58), (1, 0), (neck, 0.58), (neck, thick)]
    pen.fill([(-1, -thick), *head, (-1, thick)], pen.colour("red", "green", "blue", "black", "orange"))
