"""Drawn pairs of images and captions that differ by what belongs to what alone: the same words in another order.

A composition has a partner, drawn on the same ground at the same places, in which two things have exchanged their
colours, numbers, sides, sizes or parts in an action. What one caption says is right of one of the two images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from ...contracts.items import Decoded
from .scenes import BACKGROUNDS, COLOURS, COUNTS, FINER, SHAPES, SIDE, draw_shape, shaded

COLOUR, COUNT, PLACE, SIZE, ACTION = KINDS = ("colour", "count", "place", "size", "action")
ACTIONS = ("shoots at", "watches", "carries")
MEDIUM, LARGE, SMALL = "", "large", "small"
RADII = {MEDIUM: 0.15, LARGE: 0.21, SMALL: 0.08}
"""Of sizes, in sides of the drawing."""
OF_SEVERAL = 0.115
"""Radius where there are several things of a kind."""
CENTRES = (0.25, 0.75)
INK, ARROW = (15, 15, 15), (0, 190, 200)


@dataclass(frozen=True)
class EqualThings:
    """One to three equal things."""

    colour: str
    shape: str
    count: int = 1
    size: str = MEDIUM

    @property
    def words(self) -> str:
        """ "a large red circle", "two red circles"."""
        named = " ".join(filter(None, (self.size, self.colour, self.shape)))
        if self.count > 1:
            return f"{COUNTS[self.count - 1]} {named}{'es' if named.endswith('s') else 's'}"
        return f"{'an' if named[0] in 'aeiou' else 'a'} {named}"


@dataclass(frozen=True)
class Arrangement:
    """Two parts beside each other, or with "carries" above each other.

    Args:
        kind: one of KINDS.
        parts: as the caption names them.
        first_is_left: whether the first stands at the left.
        action: what the first does to the second; "" for nothing.
        ground: one of BACKGROUNDS.
    """

    kind: str
    parts: tuple[EqualThings, EqualThings]
    first_is_left: bool
    action: str
    ground: str

    @property
    def caption(self) -> str:
        first, second = (part.words for part in self.parts)
        if self.kind == PLACE:
            return f"{first} {'left' if self.first_is_left else 'right'} of {second}"
        return f"{first} {self.action or 'and'} {second}"

    @property
    def turned_caption(self) -> str:
        """The same with the second part named first; of actions in the passive."""
        first, second = (part.words for part in self.parts)
        if self.kind == PLACE:
            return f"{second} {'right' if self.first_is_left else 'left'} of {first}"
        passive = {"shoots at": "is shot at by", "watches": "is watched by", "carries": "is carried by"}
        return f"{second} {passive.get(self.action, 'and')} {first}"

    @property
    def partner(self) -> Arrangement:
        """The composition whose caption has the same words in another order."""
        one, other = self.parts
        if self.kind == COLOUR:
            return replace(self, parts=(replace(one, colour=other.colour), replace(other, colour=one.colour)))
        if self.kind == COUNT:
            return replace(self, parts=(replace(one, count=other.count), replace(other, count=one.count)))
        if self.kind == SIZE:
            return replace(self, parts=(replace(one, size=other.size), replace(other, size=one.size)))
        if self.kind == PLACE:  # the caption names the other one first, at the same side
            return replace(self, parts=(other, one))
        return replace(self, parts=(other, one), first_is_left=not self.first_is_left)

    @property
    def key(self) -> tuple[str, str]:
        """Equal for a composition, its partner, and those that say the same with the other thing first."""
        return self.kind, min(text for each in (self, self.partner) for text in (each.caption, each.turned_caption))


def drawn_compositions(kind: str, count: int, seed: int, without: Sequence[Arrangement] = ()) -> list[Arrangement]:
    """Drawn compositions of a kind, of which no two have a caption in common, nor has one with its partner or one of
    `without`. There are 225 of colours, and 450 or more of other kinds: fewer come back where more are asked for."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    taken = {each.key for each in without}
    made: list[Arrangement] = []
    for _ in range(2000 + 10 * count):
        if len(made) == count:
            break
        drawn = _drawn(kind, rng)
        if drawn.key not in taken:
            taken.add(drawn.key)
            made.append(drawn)
    return made


def _drawn(kind: str, rng: np.random.Generator) -> Arrangement:
    colours, shapes = (rng.permutation(list(names))[:2].tolist() for names in (COLOURS, SHAPES))
    one, other = (EqualThings(colour, shape) for colour, shape in zip(colours, shapes))
    if kind == COUNT:
        counts = rng.permutation(len(COUNTS))[:2] + 1
        one, other = (replace(part, count=int(number)) for part, number in zip((one, other), counts))
    if kind == SIZE:
        sizes = (LARGE, SMALL) if rng.random() < 0.5 else (SMALL, LARGE)
        one, other = (replace(part, size=size) for part, size in zip((one, other), sizes))
    action = ACTIONS[rng.integers(len(ACTIONS))] if kind == ACTION else ""
    return Arrangement(kind, (one, other), bool(rng.random() < 0.5), action, tuple(BACKGROUNDS)[rng.integers(4)])


def draw_composition(shown: Arrangement, seed: int | Sequence[int]) -> Decoded:
    """(96, 96, 3) uint8, always the same for the same composition and seed; its partner stands at the same places."""
    rng = np.random.default_rng(seed)
    sheet = Image.new("RGB", (SIDE * FINER, SIDE * FINER), shaded(BACKGROUNDS[shown.ground], rng))
    pen = ImageDraw.Draw(sheet)
    left, right = shown.parts if shown.first_is_left else shown.parts[::-1]
    places = np.array([[x, 0.5] for x in CENTRES])  # (2, 2)
    places += rng.uniform(-0.04, 0.04, (2, 2))
    if shown.action == "carries":  # the first below
        left, right = shown.parts
        places = np.array([[0.5, 0.7], [0.5, 0.7 - 2 * RADII[MEDIUM]]]) + rng.uniform(-0.06, 0.06, 2)
    shades = rng.integers(2**32, size=len(COLOURS))
    for part, place in zip((left, right), places):
        _draw_part(pen, part, place, np.random.default_rng(shades[list(COLOURS).index(part.colour)]))
    agent = 0 if shown.first_is_left or shown.action == "carries" else 1
    if shown.action == "shoots at":
        _draw_arrow(pen, places[agent], places[1 - agent])
    if shown.action == "watches":
        _draw_eye(pen, places[agent], places[1 - agent])
    return np.array(sheet.reduce(FINER))  # (S, S, 3)


def _draw_part(pen: ImageDraw.ImageDraw, part: EqualThings, place: np.ndarray, rng: np.random.Generator) -> None:
    radius = RADII[part.size] if part.count == 1 else OF_SEVERAL
    for number in range(part.count):
        y = place[1] + (number - (part.count - 1) / 2) * 0.3
        draw_shape(pen, part.shape, place[0], y, radius, shaded(COLOURS[part.colour], rng))


def _draw_arrow(pen: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray) -> None:
    """Between two things, with its head at the second."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    tail, tip = start + 0.13 * along, end - 0.13 * along
    size = SIDE * FINER
    pen.line([tuple(tail * size), tuple(tip * size)], fill=ARROW, width=round(0.03 * size))
    head = (tip, tip - 0.09 * along + 0.07 * across, tip - 0.09 * along - 0.07 * across)
    pen.polygon([tuple(corner * size) for corner in head], fill=ARROW)


def _draw_eye(pen: ImageDraw.ImageDraw, of: np.ndarray, at: np.ndarray) -> None:
    """On the first thing, its pupil turned to the second."""
    along = (at - of) / np.linalg.norm(at - of)
    size = SIDE * FINER
    for centre, radius, fill in ((of, 0.075, (255, 255, 255)), (of + 0.035 * along, 0.04, INK)):
        (x, y), r = centre * size, radius * size
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=INK)
