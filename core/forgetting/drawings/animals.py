"""Animals."""

from __future__ import annotations

import numpy as np

from .pen import Pen, arc, mirrored, smooth


def fish(pen: Pen) -> None:
    colour, tall = pen.colour("orange", "red", "sky", "yellow", "teal"), pen.rng.uniform(0.46, 0.6)
    fin = pen.colour("orange", "yellow", "blue")
    pen.fill(smooth([(0.35, 0), (0.7, -0.3), (1, -0.5), (0.88, 0), (1, 0.5), (0.7, 0.3)]), fin)
    pen.fill(smooth([(-0.35, -0.3), (-0.05, -tall - 0.28), (0.35, -0.3)]), fin)
    pen.fill(smooth([(-0.15, 0.3), (0.2, tall + 0.2), (0.25, 0.3)]), fin)
    back, belly = [(-0.55, -tall * 0.85), (0, -tall), (0.55, -0.14)], [(0.6, 0.14), (0, tall), (-0.55, tall * 0.85)]
    pen.fill(smooth([(-1, 0.02), *back, *belly]), colour)
    pen.line(arc(-0.72, 0, 0.35, 0.42, -60, 60))
    for x, y in ((0, -0.2), (0.0, 0.16), (0.25, 0)):
        pen.line(arc(x, y, 0.12, start=-80, stop=80))
    pen.disc(-0.66, -0.12, 0.1, pen.colour("white"))
    pen.disc(-0.67, -0.12, 0.05, pen.colour("black"), outline=False)
    pen.line([(-0.97, 0.1), (-0.82, 0.14)])


def cat(pen: Pen) -> None:
    fur = pen.colour("orange", "grey", "black", "brown", "tan")
    inner = pen.colour("pink")
    for side in (-1, 1):
        pen.fill([(side * 0.85, -0.98), (side * 0.2, -0.6), (side * 0.8, -0.1)], fur)
        pen.fill([(side * 0.76, -0.78), (side * 0.42, -0.58), (side * 0.72, -0.3)], inner, outline=False)
    half = [(0, -0.62), (0.45, -0.55), (0.82, -0.1), (0.88, 0.3), (0.6, 0.72), (0, 0.86)]
    pen.fill(smooth(mirrored(half)), fur)
    for x in (-0.2, 0, 0.2):
        pen.line([(x, -0.56), (x * 0.8, -0.3)], pen.colour("brown", "black"), 0.06)
    muzzle = pen.colour("cream", "white")
    for side in (-1, 1):
        pen.fill(arc(side * 0.17, 0.43, 0.24, 0.19), muzzle, outline=False)
    eye = pen.colour("lime", "yellow", "sky")
    for side in (-1, 1):
        pen.fill(arc(side * 0.38, -0.02, 0.19, 0.17), eye)
        pen.fill(arc(side * 0.38, -0.02, 0.06, 0.16), pen.colour("black"), outline=False)
        for y, end in ((0.36, 0.28), (0.44, 0.44), (0.52, 0.6)):
            pen.line([(side * 0.34, y), (side * 1.0, end)])
    pen.fill([(-0.11, 0.22), (0.11, 0.22), (0, 0.36)], pen.colour("pink"))
    pen.line(smooth([(-0.2, 0.52), (-0.08, 0.56), (0, 0.36), (0.08, 0.56), (0.2, 0.52)], closed=False))


def butterfly(pen: Pen) -> None:
    wing, lower = pen.colour("orange", "yellow", "blue", "purple"), pen.colour("orange", "red", "sky", "pink")
    for side in (-1, 1):
        upper_wing = smooth([(0.06, -0.1), (0.3, -0.65), (0.8, -0.88), (0.98, -0.6), (0.85, -0.15), (0.4, 0.08)])
        lower_wing = smooth([(0.06, 0.02), (0.5, 0.02), (0.8, 0.3), (0.66, 0.72), (0.35, 0.75), (0.12, 0.4)])
        pen.fill(lower_wing * (side, 1), lower)
        pen.fill(upper_wing * (side, 1), wing)
        for x, y, radius in ((0.72, -0.55, 0.13), (0.5, -0.3, 0.08), (0.5, 0.38, 0.11)):
            pen.disc(side * x, y, radius, pen.colour("white", "black"), outline=False)
        pen.line(smooth([(0, -0.55), (side * 0.12, -0.8), (side * 0.3, -0.95)], closed=False))
        pen.disc(side * 0.3, -0.95, 0.035, pen.ink, outline=False)
    pen.fill(arc(0, 0.05, 0.08, 0.58), pen.colour("black", "brown"))
    pen.disc(0, -0.56, 0.1, pen.colour("black", "brown"))


def snail(pen: Pen) -> None:
    body = pen.colour("tan", "lime", "grey")
    for x, y in ((-0.92, -0.5), (-0.66, -0.55)):
        pen.line([(-0.74, 0.1), (x, y)], body, 0.07)
        pen.disc(x, y, 0.06, pen.colour("black"), outline=False)
    head, foot = [(-0.94, 0.02), (-0.74, -0.1), (-0.55, 0.1)], [(1, 0.74), (-0.4, 0.78), (-0.72, 0.6), (-0.9, 0.3)]
    pen.fill(smooth([*head, (-0.45, 0.42), (0.5, 0.5), *foot]), body)
    pen.disc(0.12, -0.04, 0.58, pen.colour("brown", "orange", "red"))
    turns = np.linspace(0, 2 * np.pi * pen.rng.uniform(2.2, 2.8), 70)
    radius = 0.52 * turns / turns[-1]
    pen.line(np.stack([0.12 + radius * np.cos(turns), -0.04 + radius * np.sin(turns)], axis=1), None, 0.055)


def ladybug(pen: Pen) -> None:
    black = pen.colour("black")
    for y, end in ((-0.2, -0.42), (0.12, 0.14), (0.42, 0.72)):
        for side in (-1, 1):
            pen.line([(side * 0.6, y), (side * 0.86, end), (side * 0.98, end + 0.1)], black, 0.06)
    for side in (-1, 1):
        pen.line(smooth([(side * 0.1, -0.75), (side * 0.2, -0.92), (side * 0.36, -0.98)], closed=False), black, 0.05)
    pen.fill(arc(0, -0.58, 0.4, 0.3), black)
    pen.fill(arc(0, 0.12, 0.74, 0.78), pen.colour("red", "red", "orange"))
    pen.line([(0, -0.64), (0, 0.9)], black, 0.05)
    for side in (-1, 1):
        for x, y, radius in ((0.3, -0.25, 0.12), (0.46, 0.18, 0.13), (0.24, 0.55, 0.12)):
            pen.disc(side * x, y, radius, black, outline=False)
        pen.disc(side * 0.2, -0.7, 0.07, pen.colour("white"), outline=False)
