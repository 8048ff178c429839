"""The sample: everyday things drawn by code, which need no download and no licence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ...core.contracts import DomainData, Item, Label
from ...core.forgetting import draw

KINDS = (
    *("apple", "butterfly", "candle", "clock", "cup", "fish"),
    *("flower", "key", "mushroom", "sailboat", "snail", "umbrella"),
)
DRAWING = "1"
"""Part of each image's identity, so of its stored features: whoever changes what is drawn gives another text."""
FIRST = 1000
"""The number of the first drawing: those before it show what a training forgets, and are not learned from."""
IMAGES_PER_SPLIT = {"train": 16, "val": 4, "test": 10}
NOTE = (
    "Drawn data: the sample's pictures are drawn by vladapt itself, not photographed; its numbers show that the "
    "pipeline works, nothing about photos."
)


def drawn_things() -> DomainData:
    """360 pictures of 12 things, with splits; the same on every machine."""
    items = [
        _item(label, kind, FIRST + number, split)
        for label, kind in enumerate(KINDS)
        for number, split in enumerate(DomainData.drawn_splits(IMAGES_PER_SPLIT))
    ]
    return DomainData.drawn("drawn-things", NOTE, items, render_item, KINDS)


def render_item(item: Item) -> np.ndarray:
    """(224, 224, 3) uint8."""
    return draw(KINDS[int(item.decode["kind"])], int(item.decode["number"])).copy()


def _item(label: int, kind: str, number: int, split: str) -> Item:
    digest = hashlib.sha256(f"{DRAWING} {kind} {number}".encode()).hexdigest()
    decode = {"kind": label, "number": number, "digest": digest}
    return Item(f"{kind}/{number - FIRST}", Path(__file__), decode, Label(label), split=split)
