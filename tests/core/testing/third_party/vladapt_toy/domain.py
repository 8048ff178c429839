"""Images of a coloured spot on dark ground: which colour it has, and where it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vladapt import DataError, Domain, DomainData, Item, Target, option
from vladapt.api import IMAGE, loader, settle

SIDE, RADIUS = 24, 5
COLOURS = {"red": (230, 60, 50), "green": (60, 200, 70), "blue": (60, 80, 230)}
NAME = re.compile(r"(?P<colour>[a-z]+)-(?P<x>\d+)-(?P<y>\d+)\.png")


@dataclass(frozen=True)
class Spot(Target):
    """A spot: its colour, and its centre in pixels."""

    colour: int
    x: float
    y: float

    def class_label(self) -> int:
        return self.colour

    def numbers(self) -> Mapping[str, float]:
        return {"x": self.x, "y": self.y}

    def restricted(self, new: Mapping[int, int]) -> Spot | None:
        return replace(self, colour=new[self.colour]) if self.colour in new else None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Options of `Toy.read`."""

    every: int = option(1, "every n-th image", low=1, high=1_000)

    def __post_init__(self):
        settle(self)


class Toy(Domain):
    """Coloured spots. A folder of files such as `red-7-12.png` says colour and centre in their names."""

    name = "toy"
    tasks = ("classification", "pointing")
    reading = Reading
    default_adapter = "nearest-spot"
    metrics = ("worst-class",)

    def read(self, path, task, **options):
        reading, path = self.reading_of(options), Path(path)
        self.check_task(task)
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; give a folder of files such as red-7-12.png")
        items, skipped = [], []
        for file in sorted(path.glob("*.png"))[:: reading.every]:
            found = NAME.fullmatch(file.name)
            if found is None or found["colour"] not in COLOURS:
                skipped.append((file.name, "its name says no colour and centre"))
                continue
            spot = Spot(list(COLOURS).index(found["colour"]), float(found["x"]), float(found["y"]))
            items.append(Item(file.name, file, target=spot))
        if not items:
            raise DataError(f"{path}: no image of a spot there; give files such as red-7-12.png")
        return DomainData(items, tuple(COLOURS), loader((IMAGE,)), name=path.name, skipped=skipped)

    def sample(self, task):
        self.check_task(task)
        items = [self._item(index) for index in range(60)]
        notes = ["These spots are drawn, not photographed."]
        return DomainData(items, tuple(COLOURS), draw, name="drawn spots", notes=notes, licence="CC0-1.0")

    def templates(self, task):
        return ["a {} spot.", "a picture of a {} spot."]

    def _item(self, index: int) -> Item:
        x, y = np.random.default_rng(index).integers(RADIUS, SIDE - RADIUS, 2)
        digest = hashlib.sha256(f"spot {index}".encode()).hexdigest()
        decode = {"index": index, "digest": digest}
        return Item(f"spot-{index:03d}", Path(__file__), decode, target=Spot(index % 3, float(x), float(y)))


def draw(item: Item) -> np.ndarray:
    """(24, 24, 3) uint8."""
    noise = np.random.default_rng(1000 + item.decode["index"]).integers(0, 40, (SIDE, SIDE, 3))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = (columns - item.target.x) ** 2 + (rows - item.target.y) ** 2 <= RADIUS**2
    return np.where(inside[..., None], list(COLOURS.values())[item.target.colour], noise).astype(np.uint8)
