"""Classes that a mirror confuses, left and right above all: no flip for them, or a flip that changes the label too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...core.contracts import DomainData, Item, Label
from ...core.errors import DataError
from .clips import MIRROR

DIRECTIONS = re.compile(r"\b(left|right|(?:anti|counter)?-?clockwise)(wards?)?\b", re.IGNORECASE)
"""Words that a mirror makes wrong."""
SIDES = re.compile(r"\b(left|right)(?=(?:wards?)?\b)", re.IGNORECASE)
OTHER = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}


def hold_a_direction(texts: Iterable[str]) -> bool:
    """Whether one of some names or captions says left, right or which way something turns."""
    return any(DIRECTIONS.search(text.replace("_", " ")) for text in texts)


def mirror_names(names: Sequence[str]) -> list[int | None]:
    """Of each class the one that its mirror image shows: itself, the one with left and right exchanged, or None where
    that is no class, or a turn has no name for its mirror image."""
    places = {name: place for place, name in enumerate(names)}
    exchanged = [SIDES.sub(lambda match: OTHER.get(match[0], match[0]), name) for name in names]
    return [places.get(other) if _has_mirror(name) else None for name, other in zip(names, exchanged, strict=True)]


def with_mirrored(data: DomainData) -> DomainData:
    """The set with a mirror image of each training clip, under the label of what it shows.

    Raises:
        DataError: the set has no training split of its own, or its clips have several labels, or none.
    """
    if data.kind != "clips" or not any(item.split == "train" for item in data.items):
        raise DataError(
            f"{data.name}: --mirror-labels needs clips with one label each and lists of train and test; omit it"
        )
    shown = mirror_names(data.class_names)
    images = [
        _mirrored(item, shown[item.target.index])
        for item in data.items
        if item.split == "train" and shown[item.target.index] is not None
    ]
    changed = sum(shown[place] not in (None, place) for place in range(len(shown)))
    note = f"Mirror images of training clips: {len(images)}; {changed} classes swap left and right in them."
    made = data.with_items([*data.items, *images])
    made.notes = [*data.notes, note]
    return made


def _has_mirror(name: str) -> bool:
    return "clockwise" not in name.lower()


def _mirrored(item: Item, label: int) -> Item:
    target = Label(label, item.target.facts)
    return item.with_(id=f"{item.id} mirrored", decode={**item.decode, MIRROR: True}, target=target)
