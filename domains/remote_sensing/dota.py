"""Oriented boxes as DOTA lists them: `labelTxt/NAME.txt` beside `images/`, also below `train`, `val` and `test`.

A line is x1 y1 x2 y2 x3 y3 x4 y4 category difficult; "imagesource:" and "gsd:" may stand before them ("DOTA: A
Large-scale Dataset for Object Detection in Aerial Images", 2018, arXiv 1711.10398). A box is the upright hull of its
four corners, which stay as its outline; difficult objects are neither learned nor counted. Tiles of one picture, told
by their names (P0001__1__824___0), stay on one side of a split: they overlap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.contracts import Boxes, DomainData, Item
from ...core.data import Format, ItemCollector, folders, shown
from ...core.errors import DataError, shortened
from ...core.runtime import text_lines
from .localization.pictures import picture_size

LABELS = ("labelTxt", "labelTxt-v1.5", "labelTxt-v1.0", "labelTxt-v2.0")
TILE = re.compile(r"^(?P<picture>.+?)__\d+(?:\.\d+)?__-?\d+___-?\d+$")
"""Name of a tile, as DOTA's own tools and mmrotate cut pictures: NAME__SCALE__LEFT___TOP."""
HEADS = ("imagesource:", "gsd:", "acquisition dates:")


@dataclass(frozen=True)
class Oriented:
    """One object: its four corners (8 numbers), its class, and whether it is difficult."""

    corners: tuple[float, ...]
    name: str
    difficult: bool


def is_dota(path: Path) -> bool:
    """Whether a folder, or one of its splits, has label files of DOTA."""
    return path.is_dir() and bool(_parts(path))


def read_dota(path: Path, formats: Sequence[Format]) -> DomainData:
    """All pictures with a label file, as a set of boxes.

    Raises:
        DataError: a line is not as DOTA has it, or no picture is there.
    """
    collector, listed = ItemCollector(), []
    for folder, labels, split in _parts(path):
        pictures = {file.stem: file for file in sorted((folder / "images").glob("*")) if Format.of(file, formats)}
        for file in sorted(labels.glob("*.txt")):
            if file.stem not in pictures:
                collector.skip(shown(file, path), f"no picture {file.stem} in {folder / 'images'}")
                continue
            before = len(collector.items)
            where = {"split": split, "group": match["picture"] if (match := TILE.match(file.stem)) else None}
            collector.add_file(pictures[file.stem], shown(pictures[file.stem], path), formats, **where)
            listed += [(item, _objects(file)) for item in collector.items[before:]]
    names = tuple(sorted({each.name for _, objects in listed for each in objects}))
    if not listed or not names:
        raise DataError(
            f"{path}: holds no picture with an object; put pictures into images/ and their labels into labelTxt/"
        )
    index = {name: place for place, name in enumerate(names)}
    items = [_item(item, objects, index) for item, objects in listed]
    notes = ["Oriented boxes of DOTA: boxes are their upright hulls, outlines their corners."]
    return collector.data_set(path, formats, names, items=items, kind="boxes", notes=notes)


def _parts(path: Path) -> list[tuple[Path, Path, str]]:
    """Folder, its label folder, and its split."""
    below = [(inner, inner.name if inner.name in Item.SPLITS else "") for inner in folders(path)]
    places = [(path, ""), *(pair for pair in below if pair[1])]
    return [
        (folder, next(folder / name for name in LABELS if (folder / name).is_dir()), split)
        for folder, split in places
        if any((folder / name).is_dir() for name in LABELS)
    ]


def _objects(file: Path) -> list[Oriented]:
    objects = []
    for number, line in enumerate(text_lines(file), start=1):
        if line.strip() and not line.lower().startswith(HEADS):
            objects.append(_object(line.split(), f"{file} line {number}"))
    return objects


def _object(cells: list[str], where: str) -> Oriented:
    try:
        corners = tuple(float(cell) for cell in cells[:8])
        if len(cells) not in (9, 10) or not all(map(math.isfinite, corners)):
            raise ValueError
    except ValueError:
        line = shortened(" ".join(cells))
        raise DataError(f"{where}: '{line}' is not x1 y1 ... x4 y4 category difficult; correct it") from None
    return Oriented(corners, cells[8].replace("-", " "), len(cells) == 10 and cells[9] != "0")


def _item(item: Item, objects: Sequence[Oriented], index: dict[str, int]) -> Item:
    height, width = picture_size(item)
    points = np.array([each.corners for each in objects], np.float64).reshape(-1, 4, 2)
    hulls = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).clip(0, (width, height, width, height))
    inside = np.flatnonzero((hulls[:, 2] > hulls[:, 0]) & (hulls[:, 3] > hulls[:, 1]))
    ignored = tuple(objects[k].difficult for k in inside)
    target = Boxes(
        boxes=tuple(tuple(map(float, hulls[k])) for k in inside),
        labels=tuple(index[objects[k].name] for k in inside),
        segments=tuple([list(objects[k].corners)] for k in inside) if len(inside) else None,
        ignored=ignored if any(ignored) else None,
        size=(width, height),
    )
    return item.with_(target=target)
