"""Large pictures in overlapping windows, as in "Slicing Aided Hyper Inference and Fine-Tuning for Small Object
Detection" (2022, arXiv 2202.06934); what is found in them is joined (`joined.py`)."""

from __future__ import annotations

from dataclasses import replace

from ....core.contracts import DomainData, Item
from ....core.data import IMAGE, Format

OVERLAP = 0.2
"""Share of a window that the next one sees too."""


def tiled(data: DomainData, side: int) -> DomainData:
    """New images of which those with a longer side than `side` are windows of it; what is a part of a picture stays."""
    items = [part for item in data.items for part in _parts(item, data, side)]
    return replace(data, items=items)


def _parts(item: Item, data: DomainData, side: int) -> list[Item]:
    if "window" in item.decode or "box" in item.decode:
        return [item]
    if Format.of(item.source, [IMAGE]) is not None and not item.decode.get(Item.READ_BY):
        width, height = IMAGE.size_of(item.source, item.decode)
    else:
        height, width = data.load(item).shape[:2]
    if max(width, height) <= side:
        return [item]
    whole = {**item.decode, Item.WHOLE: [height, width]}
    return [
        item.with_(
            id=f"{item.id}#{top}_{left}",
            decode={**whole, "box": [left, top, min(left + side, width), min(top + side, height)]},
            group=item.group or item.id,
            apart=True,
        )
        for top in tile_starts(height, side)
        for left in tile_starts(width, side)
    ]


def tile_starts(length: int, side: int) -> list[int]:
    """Where windows along a side begin: each overlaps the one before, the last ends with the picture."""
    step = max(1, round(side * (1 - OVERLAP)))
    return [*range(0, max(length - side, 0), step), max(length - side, 0)]
