"""Sky, plants and fruit."""

from __future__ import annotations

import numpy as np

from .pen import Pen, arc, box, mirrored, moved, rounded_box, smooth, star_outline


def sun(pen: Pen) -> None:
    colour, rays = pen.colour("yellow", "orange"), int(pen.rng.integers(9, 14))
    longer = pen.rng.uniform(0.88, 1.0)
    for ray in range(rays):
        tip = [(0.58, -0.12), (longer, 0), (0.58, 0.12)]
        pen.fill(moved(np.array(tip), turn=360 * ray / rays), colour)
    pen.disc(0, 0, 0.5, colour)


def moon(pen: Pen) -> None:
    bite = pen.rng.uniform(0.55, 0.8)
    half = np.degrees(np.arccos(bite / 2 / 0.95))  # where the circle meets one of its size, moved by `bite`
    outer = arc(0.3, 0, 0.95, start=half, stop=360 - half)
    inner = arc(0.3 + bite, 0, 0.95, start=180 + half, stop=180 - half)
    pen.fill(np.concatenate([outer, inner]), pen.colour("yellow", "cream", "silver"))


def star(pen: Pen) -> None:
    pen.fill(star_outline(5, pen.rng.uniform(0.38, 0.46)), pen.colour("yellow", "orange", "red", "blue"))


def rainbow(pen: Pen) -> None:
    for i, name in enumerate(("red", "orange", "yellow", "green", "blue", "purple")):
        outer, inner = 1.0 - 0.1 * i, 0.9 - 0.1 * i
        band = [arc(0, 0.45, outer, start=180, stop=360), arc(0, 0.45, inner, start=360, stop=180)]
        pen.fill(np.concatenate(band), pen.colour(name), outline=False)
    if pen.rng.random() < 0.5:
        cloud = pen.colour("white")
        for side in (-1, 1):
            for x, y, radius in ((0.55, 0.5, 0.17), (0.85, 0.5, 0.17), (0.7, 0.4, 0.2)):
                pen.disc(side * x, y, radius, cloud, outline=False)


def lightning(pen: Pen) -> None:
    lean = pen.rng.uniform(-0.08, 0.08)
    bolt = [(0.25 + lean, -1), (-0.5, 0.12), (-0.08, 0.12), (-0.32 - lean, 1), (0.5, -0.22), (0.06, -0.22), (0.6, -1)]
    pen.fill(bolt, pen.colour("yellow", "orange"))


def tree(pen: Pen) -> None:
    wide = pen.rng.uniform(0.13, 0.18)
    pen.fill([(-wide, 0), (wide, 0), (wide * 1.5, 1), (-wide * 1.5, 1)], pen.colour("brown"))
    leaves = pen.colour("green", "lime")
    if pen.rng.random() < 0.5:  # a fir
        for top, low, half in ((-0.1, 0.6, 0.72), (-0.5, 0.15, 0.58), (-1.0, -0.25, 0.44)):
            pen.fill([(0, top), (half, low), (-half, low)], leaves)
        return
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False) + pen.rng.uniform(0, 1)
    outline = arc(0, -0.35, 0.5)
    pen.fill(outline, leaves)
    for angle in angles:
        pen.disc(0.46 * np.cos(angle), -0.35 + 0.42 * np.sin(angle), 0.24, leaves)
    pen.fill(outline, leaves, outline=False)


def flower(pen: Pen) -> None:
    green = pen.colour("green", "lime")
    pen.line(smooth([(0, -0.3), (0.06, 0.3), (0, 1)], closed=False), green, 0.09)
    for side in (-1, 1):
        leaf = smooth([(0, 0), (0.28, -0.2), (0.55, -0.22), (0.35, 0.04)])
        pen.fill(leaf * (side, 1) + (0.03, 0.65 if side > 0 else 0.5), green)
    petals, colour = int(pen.rng.integers(5, 9)), pen.colour("red", "pink", "white", "purple", "blue")
    petal = arc(0.37, 0, 0.24, min(0.22, 1.25 / petals))
    for i in range(petals):
        pen.fill(moved(petal, 0, -0.4, turn=360 * i / petals), colour)
    pen.disc(0, -0.4, 0.19, pen.colour("yellow", "brown"))


def mushroom(pen: Pen) -> None:
    wide = pen.rng.uniform(0.2, 0.27)
    stem = [(wide, 0), (wide * 0.9, 0.5), (wide * 1.35, 0.9), (0, 1)]
    pen.fill(smooth(mirrored(stem)), pen.colour("cream", "white"))
    brim = smooth([(0.95, 0.05), (0, 0.2), (-0.95, 0.05)], closed=False)
    dome = arc(0, 0.05, 0.95, pen.rng.uniform(0.8, 1.0), 180, 360)
    pen.fill(np.concatenate([dome, brim]), pen.colour("red", "red", "brown"))
    for x, y, radius in ((-0.5, -0.22, 0.12), (0.02, -0.52, 0.15), (0.52, -0.25, 0.13), (0.02, -0.1, 0.1)):
        pen.disc(x, y, radius, pen.colour("white"), outline=False)


def apple(pen: Pen) -> None:
    half = [(0, -0.5), (0.35, -0.64), (0.78, -0.42), (0.86, 0.1), (0.6, 0.7), (0.25, 0.92), (0, 0.84)]
    pen.line(smooth([(0, -0.45), (0.04, -0.75), (0.16, -0.98)], closed=False), pen.colour("brown"), 0.09)
    pen.fill(smooth(mirrored(half)), pen.colour("red", "red", "lime", "green"))
    pen.fill(smooth([(0.1, -0.72), (0.3, -0.98), (0.68, -0.96), (0.45, -0.72)]), pen.colour("green"))


def banana(pen: Pen) -> None:
    outer = [(-0.95, -0.42), (-0.78, 0.14), (-0.35, 0.55), (0.2, 0.62), (0.68, 0.34), (0.92, -0.1)]
    inner = [(0.8, -0.2), (0.5, 0.02), (0.1, 0.12), (-0.35, 0.0), (-0.68, -0.32), (-0.82, -0.48)]
    pen.fill(smooth(outer + inner), pen.colour("yellow"))
    edge = [(-0.86, -0.36), (-0.6, 0.1), (-0.2, 0.36), (0.25, 0.4), (0.86, -0.1)]
    pen.line(smooth(edge, closed=False), pen.colour("brown", "orange"))
    pen.fill(box(-0.97, -0.62, -0.81, -0.4), pen.colour("brown"))
    pen.disc(0.87, -0.16, 0.07, pen.colour("black"))


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
