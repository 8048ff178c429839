"""Drawn samples: squares whose colours are classes, and coloured halves with texts about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.items import Item, Label, Labels

TEMPLATES = ("a {} square.", "a picture of {}.")
AGAINST = ("a picture without {}.",)
ABOUT = ("{} is drawn", "it shows {}", "a sheet of paint, {}", "{} everywhere, and noise", "one sees {} here, a square")
THINGS = ("wall", "sky", "leaf", "night", "dog", "tree")


def drawn_item(split: str, index: int, label: int, classes: int, several: bool) -> Item:
    """A sample of a class, or of several where images have several labels; one in five lacks its first label."""
    present = [c for c in range(classes) if c == label or (several and (index + c) % 3 == 0)]
    labels = tuple(float(c in present) for c in range(classes)) if several else None
    if several and index % 5 == 1:
        labels = (float("nan"), *labels[1:])
    decode = {"index": index, "of": present}
    return Item(f"{split}-{index}", Path(__file__), decode, target=Labels(labels) if several else Label(label))


def draw_square(item: Item, part: int = 0) -> np.ndarray:
    """(22, 20, 3) uint8: a noisy square whose colour says its classes; one in four is hard to tell from the next."""
    index, classes = item.decode["index"], item.decode["of"]
    colour = np.mean([_colour(label) for label in classes], axis=0) if classes else np.full(3, 128.0)
    if index % 4 == 3 and len(classes) == 1:
        colour = 0.45 * colour + 0.55 * _colour(classes[0] + 1)
    return np.clip(colour + _noise(index, part), 0, 255).astype(np.uint8)


def texts_about(names: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Further texts about classes, by the names of resources."""
    some = names[:20]
    return {
        "attributes": lambda: tuple((f"{name}, bright", f"{name}, dark") for name in names),
        "pair_attributes": lambda: {
            one: {other: (f"{one} and not {other}",) for other in some if other != one} for one in some
        },
        "vocabulary": lambda: tuple(f"{which} {what}" for which in ("a", "some", "no", "old") for what in THINGS),
        "realign_prompts": lambda: {f"some {what}": (f"{what} in a picture", what) for what in THINGS},
        "synonyms": lambda: tuple(((name, 3.0), (f"{name} paint", 9.0)) for name in names),
    }


@cache
def _noise(index: int, part: int) -> np.ndarray:
    return np.random.default_rng([1000 + index, part]).integers(-40, 40, (22, 20, 3))


@cache
def _colour(label: int) -> np.ndarray:
    return np.random.default_rng(label).integers(40, 215, 3)


class DrawnPairs:
    """24 images of a coloured half, and texts that name colour and side: a `Source` of `core/training/sources.py`."""

    texts = frozenset({"caption", "view2", "short", "positives", "synthetic", "negative", "negative_image"})
    labelled = True
    columns: Mapping[str, str] = {}
    colours: Mapping[str, tuple[int, int, int]] = {
        "red": (220, 30, 30),
        "green": (30, 180, 40),
        "blue": (40, 60, 220),
        "yellow": (230, 220, 40),
    }

    def __len__(self) -> int:
        return 24

    def name(self, row: int) -> str:
        return f"pair {row}"

    def image(self, row: int) -> np.ndarray:
        pixels = np.random.default_rng(row).integers(0, 60, (24, 24, 3)).astype(np.uint8)
        side = slice(0, 12) if row // 4 % 2 == 0 else slice(12, 24)
        pixels[:, side] = list(self.colours.values())[row % 4]
        return pixels

    def negative_image(self, row: int) -> np.ndarray:
        return self.image((row + 1) % len(self))

    def text(self, kind: str, row: int, epoch: int) -> str | list[str]:
        colour, other = (list(self.colours)[(row + shift) % 4] for shift in (0, 1))
        side = ("left", "right")[row // 4 % 2]
        if kind == "positives":
            return [colour, f"on the {side}", f"{colour} {side}"]
        words = {"view2": f"{side}: {colour}", "short": colour, "negative": f"a {other} area on the {side}"}
        return words.get(kind, f"a {colour} area on the {side}")

    def label(self, row: int) -> int:
        return row % 4

    def image_id(self, row: int) -> int:
        return row // 2
