"""A small CLIP to train, and pairs of generated pedestrians and what is said of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vladapt.core.training.settings import TrainingSettings
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians

SHADES = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


class People:
    """Pictures 32 x 16 of generated people, each with a sentence, in memory.

    Args:
        people: how many, two pictures each.
        wrong: rows that have the sentence of somebody else.
    """

    labelled = True
    texts = frozenset({"caption"})
    columns = {}  # noqa: RUF012

    def __init__(self, people: int, wrong=frozenset()):
        data = drawn_pedestrians(people, 2, size=(32, 16), val=0, test=0, captions=1)
        self.items, self.wrong = data.items, wrong
        self.images = [data.load(item) for item in data.items]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        return self.items[row].id

    def image(self, row: int):
        return self.images[row]

    def text(self, kind: str, row: int, epoch: int) -> str:
        told = (row + len(self) // 2) % len(self) if row in self.wrong else row
        return self.items[told].target.texts[0]

    def label(self, row: int) -> int:
        return row // 2

    def image_id(self, row: int) -> int:
        return row


class Dolls(People):
    """Twelve people who are an upper and a lower colour, in a few pictures each: what even a small tower can learn."""

    def __init__(self, count: int, wrong=frozenset()):
        self.wrong, self.count = wrong, count
        self.outfits = list(itertools.permutations(SHADES, 2))

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        return f"doll-{row}"

    def image(self, row: int):
        pixels = np.random.default_rng(row).integers(0, 60, (24, 24, 3)).astype(np.uint8)
        pixels[:12], pixels[12:] = (SHADES[colour] for colour in self.outfits[self.label(row)])
        return pixels

    def text(self, kind: str, row: int, epoch: int) -> str:
        upper, lower = self.outfits[self.label(row + 5 if row in self.wrong else row)]
        return f"a {upper} coat and {lower} trousers"

    def label(self, row: int) -> int:
        return row % len(self.outfits)


@pytest.fixture(scope="session")
def dolls():
    """`dolls(count, wrong=frozenset())`: pairs of people of two colours."""
    return Dolls


@pytest.fixture(scope="session")
def people():
    """`people(count, wrong=frozenset())`: pairs of generated people."""
    return People


@pytest.fixture(scope="session")
def toy_settings():
    """`toy_settings(**changes)` of a training of a small set."""

    def settings(**changes):
        return TrainingSettings(
            **{"epochs": 1, "batch_size": 8, "lr": 2e-3, "warmup": 0, "crop_scale": (0.9, 1.0), **changes}
        )

    return settings
