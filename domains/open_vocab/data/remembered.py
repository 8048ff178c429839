"""A set for learning new names beside old ones: which of them it has boxes of, and in which split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....core.contracts import DomainData, Item
from ..vocabulary import alike
from .boxes import annotated_boxes
from .classes import choose_classes


def with_remembered(data: DomainData, learned: Sequence[str], remembered: Sequence[str]) -> DomainData:
    """The set with the classes to learn and, after them, the names to remember.

    Boxes of a remembered name that is not to be learned are left out of the train split, where not all of them may be
    annotated, and stay in val and test, where they tell what was forgotten. A name that the set does not have is a
    class without a box.

    Args:
        data: with splits.
        learned: classes of the data.
        remembered: names; some may be among `learned`, whose boxes are learned from.
    """
    in_data = {alike(name): name for name in data.class_names}
    taken = {alike(name) for name in learned}
    others = [name for name in remembered if alike(name) not in taken]
    there = [in_data[alike(name)] for name in others if alike(name) in in_data]
    absent = [name for name in others if alike(name) not in in_data]
    data = choose_classes(data, [*learned, *there])
    shown = set(range(len(learned)))
    often = None if data.frequency is None else (*data.frequency, *("" for _ in absent))
    items = [_showing(item, shown) if item.split == "train" else item for item in data.items]
    hidden = sum(len(annotated_boxes(old).labels) for old in data.split("train"))
    hidden -= sum(len(annotated_boxes(new).labels) for new in items if new.split == "train")
    notes = [f"Boxes of names to remember in train, not learned from: {hidden}."] if hidden else []
    names = (*data.class_names, *absent)
    return replace(data, items=items, class_names=names, frequency=often, notes=[*data.notes, *notes])


def spelled_as_in(data: DomainData, names: Sequence[str]) -> tuple[str, ...]:
    """Names as the classes of a set are written; those that it does not have are left out."""
    wanted = {alike(name) for name in names}
    return tuple(name for name in data.class_names if alike(name) in wanted)


def without_boxes(data: DomainData, split: str, names: Sequence[str]) -> tuple[str, ...]:
    """Those of a set's classes that have no box in a split."""
    seen = {label for item in data.split(split) for label in annotated_boxes(item).labels}
    return tuple(name for place, name in enumerate(data.class_names) if name in names and place not in seen)


def _showing(item: Item, classes: set[int]) -> Item:
    return item if item.target is None else item.with_(target=annotated_boxes(item).showing(classes))
