"""Phrases with boxes as they are read: in the splits of their patients, and findings with boxes as phrases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ....core.contracts import Backbone, Boxes, DomainData, Item, Target
from ....core.data import FileHashes, assign_splits, check_tolerated
from ....core.errors import DataError
from ....core.tasks import DomainPairs, RetrievalData
from ..targets import GROUNDING, Phrases, Viewed

WHAT = "give MS-CXR, a table phrases.csv (docs/medical.md), or a set of radiographs with boxes"


def divided_phrases(data: DomainData, domain: Any, split_seed: int, *, whole: bool = False) -> RetrievalData:
    """The images of a data set that have phrases with boxes, each patient in one split.

    Args:
        domain: medical.
        whole: data without splits are all test: where nothing is trained, and of other data that a run is scored on.

    Raises:
        DataError: nothing usable there, or no image has a phrase with boxes.
    """
    data = with_phrases(data)
    check_tolerated(data)
    if whole and not any(item.split for item in data.items):
        data = data.with_items([item.with_(split="test") for item in data.items])
    else:
        data = assign_splits(data, seed=split_seed, hashes=FileHashes())

    def transform(backbone: Backbone, train: bool) -> Callable:
        return domain.of(data).transforms(backbone, train, GROUNDING)

    said = list(data.skipped), list(data.notes)
    reading = {**data.reading, "modality": domain.of(data).modality}  # by which new images are told in words
    return RetrievalData(DomainPairs.of(data), data.name, data.licence, transform, *said, reading)


def with_phrases(data: DomainData) -> DomainData:
    """The images that have phrases with boxes; the name of a finding with boxes is a phrase.

    Raises:
        DataError: none has one.
    """
    phrases = {item.id: of for item in data.items if (of := _phrases_of(item, data.class_names)) is not None}
    if not phrases:
        raise DataError(f"{data.name}: no image has a phrase with boxes; {WHAT}")
    items = [item.with_(target=phrases[item.id]) for item in data.items if item.id in phrases]
    notes = list(data.notes)
    if left := len(data.items) - len(items):
        notes.append(f"Images without a phrase that has boxes, left out: {left}.")
    return replace(data.with_items(items), kind="captions", notes=notes)


def _phrases_of(item: Item, class_names: tuple[str, ...] = ()) -> Phrases | None:
    """The phrases of an image that have boxes; None where there are none."""
    target: Target | None = item.target.of if isinstance(item.target, Viewed) else item.target
    if isinstance(target, Boxes):
        target = _named(target, class_names)
    if not isinstance(target, Phrases):
        return None
    kept = [place for place, boxes in enumerate(target.boxes) if boxes]
    texts, labels = tuple(target.texts[place] for place in kept), tuple(target.labels[place] for place in kept)
    boxes = tuple(target.boxes[place] for place in kept)
    return replace(target, texts=texts, labels=labels, boxes=boxes) if kept else None


def grounded(item: Item) -> Phrases:
    """The phrases of an image of `with_phrases`."""
    if (target := _phrases_of(item)) is None:
        raise DataError(f"{item.id}: has no phrase with boxes; {WHAT}")
    return target


def asked_of(item: Item, class_names: Sequence[str]) -> list[tuple[str, str]]:
    """(phrase, name of the finding) of an image with phrases, in their order."""
    target = grounded(item)
    return [(text, class_names[label]) for text, label in zip(target.texts, target.labels, strict=True)]


def _named(target: Boxes, class_names: tuple[str, ...]) -> Phrases:
    of_class: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    ignored = target.ignored or (False,) * len(target.labels)
    for label, box, passed_over in zip(target.labels, target.boxes, ignored, strict=True):
        if not passed_over:
            of_class[label].append(tuple(box))
    texts = tuple(class_names[label] for label in of_class)
    return Phrases(texts, tuple(of_class), tuple(map(tuple, of_class.values())), target.size)
