"""A training set made of numbers: coloured squares and what they are called."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
PLACES = ("left", "right")


class ToyPairs:
    """`count` images 24 x 24, each a coloured half; captions name colour and side."""

    texts = frozenset(
        {"caption", "view2", "short", "positives", "synthetic", "negative", "negative_image", "moment_text", "sentence"}
    )
    labelled = True
    columns: ClassVar = {
        **dict.fromkeys(("verbs", "nouns", "findings", "relations", "entities", "number"), "numbers"),
        "moment": "image",
        "moment_text": "text",
    }

    def __init__(self, count: int = 24, broken: frozenset[int] = frozenset()):
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        return f"toy-{row}"

    def image(self, row: int):
        if row in self.broken:
            from vladapt import DataError

            raise DataError(f"toy-{row}: damaged on purpose")
        pixels = np.random.default_rng(row).integers(0, 60, (24, 24, 3)).astype(np.uint8)
        half = slice(0, 12) if row // 4 % 2 == 0 else slice(12, 24)
        pixels[:, half] = list(COLOURS.values())[row % 4]
        return pixels

    def negative_image(self, row: int):
        return self.image((row + 1) % self.count)

    def text(self, kind: str, row: int, epoch: int):
        colour, place = list(COLOURS)[row % 4], PLACES[row // 4 % 2]
        if kind == "negative":
            return f"a {list(COLOURS)[(row + 1) % 4]} area on the {place}"
        if kind == "positives":
            return [f"{colour}", f"on the {place}", f"{colour} {place}"]
        return {"view2": f"{place}: {colour}", "short": colour}.get(kind, f"a {colour} area on the {place}")

    def label(self, row: int) -> int:
        return row % 4

    def image_id(self, row: int) -> int:
        return row // 2

    def numbers(self, column: str, row: int):
        """Colours as verbs and findings, places as nouns, one number each; relations of each colour to each place; a
        number of most images."""
        if column == "number":
            return [math.nan if row % 5 == 4 else float(row % 4)]
        if column == "relations":
            return [float((c, p) == (row % 4, row // 4 % 2)) for c in range(4) for p in range(2)]
        of, which = (PLACES, row // 4 % 2) if column == "nouns" else (COLOURS, row % 4)
        return [float(place == which) for place in range(len(of))]

    def column_image(self, column: str, row: int):
        return self.image(row)
