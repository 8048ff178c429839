"""Things of a household."""

from __future__ import annotations

import itertools

import numpy as np

from .pen import Pen, arc, box, moved, rounded_box, smooth


def umbrella(pen: Pen) -> None:
    pen.line([(0, -0.95), (0, 0.75)], pen.colour("brown", "grey", "black"), 0.06)
    pen.line(arc(0.15, 0.75, 0.15, start=180, stop=0), pen.colour("brown", "black"), 0.08)
    one = pen.colour("red", "blue", "purple", "green", "pink", "yellow")
    other = one if pen.rng.random() < 0.5 else pen.colour("white", "cream", "yellow", "sky")
    edges = np.linspace(-0.98, 0.98, 5)
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        side = [arc(0, -0.05, abs(x), 0.8, 180 if x < 0 else 0, 270 if x < 0 else -90) for x in (left, right)]
        scallop = arc((left + right) / 2, -0.05, (right - left) / 2, 0.1, 0, -180)
        pen.fill(np.concatenate([side[0][::-1], scallop[::-1], side[1]]), one if i % 2 else other)


def key(pen: Pen) -> None:
    metal = pen.colour("yellow", "orange", "grey", "silver")
    pen.fill(box(-0.35, -0.1, 0.98, 0.1), metal)
    teeth = int(pen.rng.integers(2, 4))
    for i in range(teeth):
        x = 0.92 - 0.2 * i
        pen.fill(box(x - 0.13, 0.08, x, 0.36 if i % 2 == 0 else 0.28), metal)
    pen.disc(-0.6, 0, 0.4, metal)
    pen.hole(arc(-0.64, 0, 0.2))


def clock(pen: Pen) -> None:
    pen.disc(0, 0, 0.96, pen.colour("red", "blue", "brown", "black", "teal"))
    pen.disc(0, 0, 0.8, pen.colour("white", "cream"))
    black = pen.colour("black")
    for hour in range(12):
        inner = 0.6 if hour % 3 == 0 else 0.67
        mark = np.array([(inner, 0), (0.74, 0)])
        pen.line(moved(mark, turn=30 * hour), black, 0.06 if hour % 3 == 0 else 0.035)
    minutes = int(pen.rng.integers(0, 720))
    for turn, length, width in ((minutes / 2, 0.38, 0.085), (minutes * 6, 0.58, 0.055)):
        pen.line(moved(np.array([(0, 0), (length, 0)]), turn=turn - 90), black, width)
    pen.disc(0, 0, 0.07, black, outline=False)


def cup(pen: Pen) -> None:
    colour = pen.colour("white", "red", "blue", "teal", "yellow", "green")
    handle = smooth([(0.4, -0.3), (0.85, -0.3), (0.92, 0.1), (0.38, 0.42)], closed=False)
    pen.line(handle, pen.ink if pen.outlined else colour, 0.19)
    pen.line(handle, colour, 0.12)
    sides = [(0.55, -0.5), (0.46, 0.6), (0.3, 0.78), (-0.5, 0.78), (-0.66, 0.6), (-0.75, -0.5)]
    pen.fill(sides, colour)
    pen.fill(arc(-0.1, -0.5, 0.65, 0.16), colour)
    pen.fill(arc(-0.1, -0.48, 0.55, 0.1), pen.colour("brown"))
    for x in (-0.35, -0.08, 0.19):
        steam = smooth([(x, -0.68), (x + 0.07, -0.76), (x - 0.02, -0.86), (x + 0.06, -0.98)], closed=False)
        pen.line(steam, pen.colour("silver", "grey"), 0.045)


def ladder(pen: Pen) -> None:
    wood, rungs = pen.colour("brown", "tan", "orange", "grey"), int(pen.rng.integers(5, 8))
    wide, narrow = 0.42, pen.rng.uniform(0.3, 0.42)
    for i in range(rungs):
        t = (i + 0.7) / (rungs + 0.4)
        half = narrow + (wide - narrow) * t
        y = -1 + 2 * t
        pen.fill(box(-half, y - 0.05, half, y + 0.05), wood)
    for side in (-1, 1):
        rail = [(narrow - 0.06, -1), (narrow + 0.06, -1), (wide + 0.06, 1), (wide - 0.06, 1)]
        pen.fill(np.array(rail) * (side, 1), wood)


def envelope(pen: Pen) -> None:
    tall = pen.rng.uniform(0.56, 0.68)
    pen.fill(box(-1, -tall, 1, tall), pen.colour("white", "cream", "tan", "sky"))
    pen.line([(-1, tall), (-0.25, 0)])
    pen.line([(1, tall), (0.25, 0)])
    pen.fill([(-1, -tall), (1, -tall), (0, 0.16)], pen.colour("white", "cream", "tan"))
    pen.line([(-1, -tall), (0, 0.16), (1, -tall), (-1, -tall)])
    pen.line(np.concatenate([box(-1, -tall, 1, tall), [(-1, -tall)]]))
    if pen.rng.random() < 0.5:
        pen.disc(0, 0.12, 0.12, pen.colour("red"))


def hourglass(pen: Pen) -> None:
    glass, sand, wood = (198, 224, 236), pen.colour("yellow", "tan", "orange"), pen.colour("brown", "red", "black")
    right = [(0.5, -0.84), (0.48, -0.5), (0.07, 0), (0.48, 0.5), (0.5, 0.84)]
    pen.fill(np.concatenate([np.array(right), np.array(right)[::-1] * (-1, 1)]), glass)
    level = pen.rng.uniform(-0.6, -0.35)
    half = 0.43 if level < -0.5 else 0.07 + 0.36 * -level / 0.5
    pen.fill([(-half, level), (half, level), (0.05, -0.02), (-0.05, -0.02)], sand, outline=False)
    pen.line([(0, -0.05), (0, 0.7)], sand, 0.05)
    pen.fill([(-0.44, 0.82), (-0.36, 0.66), (0, 0.36), (0.36, 0.66), (0.44, 0.82)], sand, outline=False)
    for y in (-0.9, 0.9):
        pen.fill(rounded_box(-0.66, y - 0.09, 0.66, y + 0.09, 0.04), wood)
    for side in (-1, 1):
        pen.fill(box(side * 0.56, -0.82, side * 0.63, 0.82), wood)


def candle(pen: Pen) -> None:
    colour = pen.colour("white", "cream", "red", "blue", "pink")
    top = pen.rng.uniform(-0.35, -0.2)
    holder = pen.colour("yellow", "grey", "brown")
    pen.fill(arc(0, 0.82, 0.62, 0.17), holder)
    pen.fill(box(-0.22, top, 0.22, 0.84), colour)
    pen.fill(arc(0, top, 0.22, 0.06), colour)
    pen.line([(0, top), (0, top - 0.16)], pen.colour("black"), 0.05)
    flame = np.array([(0, -0.62), (0.13, -0.3), (0.15, -0.12), (0, 0.02), (-0.15, -0.12), (-0.13, -0.3)])
    pen.fill(smooth(flame + (0, top - 0.08)), pen.colour("orange"))
    pen.fill(smooth(flame * 0.5 + (0, top - 0.1)), pen.colour("yellow"), outline=False)


def pencil(pen: Pen) -> None:
    def along(points) -> np.ndarray:
        return moved(np.asarray(points, dtype=float), turn=-45)

    pen.fill(along([(0.55, -0.17), (1.0, 0), (0.55, 0.17)]), pen.colour("tan", "cream"))
    pen.fill(along([(0.85, -0.057), (1.0, 0), (0.85, 0.057)]), pen.colour("black"), outline=False)
    colour = pen.colour("yellow", "orange", "red", "green", "blue")
    for y in (-0.17, -0.057, 0.057):
        pen.fill(along(box(-0.7, y, 0.55, y + 0.113)), colour)
    pen.fill(along(box(-0.84, -0.17, -0.7, 0.17)), pen.colour("silver", "grey"))
    pen.fill(along(rounded_box(-1.02, -0.17, -0.84, 0.17, 0.06)), pen.colour("pink"))
