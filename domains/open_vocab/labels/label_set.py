"""What a model found in new images, and what people annotated, as one data set of labels.

A label says who made it: a model, with its score, or a person. Where large images are seen by windows, labels are those
of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Boxes, Decoded, DomainData, Item
from ....core.data import IMAGE, Box, FileHashes, Format, ListedImage, loader
from ..data.boxes import annotated_boxes
from ..data.outlines import corners_of
from ..inference.joined import whole_pictures
from ..inference.saving import BACKGROUND, file_names

IMAGES = "images"
"""Folder of the images of a set."""
PARTS = frozenset({"window", "box", "frame", "slice", "axis", "slices", "array", "index"})
"""Keys of `Item.decode` of an image that is a part of its file."""


@dataclass
class LabelSet:
    """Images with their objects.

    Args:
        class_names: in order.
        images: whose names are those of files in `images/`; sizes and corners in pixels of the upright image.
        pictures: name of each image -> the item that shows it.
        load: decodes the items.
        notes: sentences for the user.
    """

    class_names: tuple[str, ...]
    images: list[ListedImage]
    pictures: Mapping[str, Item] = field(default_factory=dict, repr=False)
    load: Callable[[Item], Decoded] = field(default=loader((IMAGE,)), repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def boxes(self) -> int:
        return sum(len(image.boxes) for image in self.images)

    def file_of(self, name: str) -> Path | None:
        """The file that is an image as it is; None of one that is a part of a file, or no common image file."""
        return self.pictures[name].source if _is_file(self.pictures[name]) else None


def labels_of_rows(
    rows: Sequence[Mapping[str, Any]],
    data: DomainData,
    class_names: Sequence[str],
    *,
    least: float = 0.0,
    masks: bool = False,
    own: DomainData | None = None,
) -> LabelSet:
    """Labels of what was found, and of a set that people annotated.

    Args:
        rows: of a detector or of a segmentor.
        data: the images.
        class_names: of the rows.
        least: the score from which on a box is a label.
        masks: whether boxes have their outlines; classes of a segmentor always have.
        own: of people, with splits; an image that both have is theirs.
    """
    shown = whole_pictures(data)
    if own is not None:
        theirs = _contents(own.items)
        shown = {name: item for name, item in shown.items() if not _contents([item]) & theirs}
        rows = [row for row in rows if row["id"] in shown]
    theirs_first = [] if own is None else list(own.items)
    items = [*theirs_first, *(shown[row["id"]] for row in rows)]
    names = _names(theirs_first, items[len(theirs_first) :])
    labels = LabelSet(tuple(class_names), [], dict(zip(names, items)), data.load)
    if own is not None:
        labels.class_names = tuple(dict.fromkeys((*own.class_names, *class_names)))
        labels.load = _either(own, data)
        for name, item in zip(names, own.items):
            labels.images.append(_annotated(name, item, own.class_names, _size(item, own.load), masks))
    for name, row in zip(names[len(items) - len(rows) :], rows, strict=True):
        size = tuple(row["size"][::-1]) if "size" in row else _size(shown[row["id"]], data.load)
        boxes = _of_maps(row, size) if "shares" in row else _of_boxes(row, size, least, masks)
        labels.images.append(_listed(name, boxes, size, made_by=Box.MODEL))
    return labels


def _names(own: Sequence[Item], new: Sequence[Item]) -> list[str]:
    """A file name for each image, as it is called in its own set; a new one that is called as another gets a number."""
    names: list[str] = []
    taken: set[str] = set()
    for items in (own, new):
        for stem, item in zip(file_names([item.id for item in items]), items, strict=True):
            # A file name that text files and XML can hold.
            stem = "".join(letter if letter.isprintable() else "_" for letter in stem).strip() or "image"
            numbered = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            name = next(name for name in numbered if name.casefold() not in taken)
            taken.add(name.casefold())
            names.append(f"{name}{_ending(item)}")
    return names


def _of_boxes(row: Mapping[str, Any], size: tuple[int, int], least: float, masks: bool) -> Iterable[Box]:
    outlines = row.get("masks") if masks else None
    for place, (corners, score, name) in enumerate(zip(row["boxes"], row["scores"], row["labels"], strict=True)):
        x0, y0, x1, y1 = np.clip(corners, 0, np.tile(size, 2)).tolist()
        if score >= least and x1 > x0 and y1 > y0:
            outline = None if outlines is None else outlines[place]
            yield Box(name, (x0, y0, x1, y1), outline, made_by=Box.MODEL, score=float(score))


def _of_maps(row: Mapping[str, Any], size: tuple[int, int]) -> Iterable[Box]:
    """Each class as one object; the background is none."""
    for name, outline in row["masks"].items():
        corners = corners_of(outline, size) if name != BACKGROUND else None
        if corners is not None:
            yield Box(name, corners, outline, made_by=Box.MODEL)


def _annotated(name: str, item: Item, class_names: Sequence[str], size: tuple[int, int], masks: bool) -> ListedImage:
    """An image as people annotated it, unless that is what nobody has reviewed."""
    made_by = Box.MODEL if item.unreviewed else Box.PERSON
    target = _drawn(item)
    outlines = target.segments if masks and target.segments is not None else (None,) * len(target.boxes)
    ignored = target.ignored or (False,) * len(target.boxes)
    boxes = [
        Box(class_names[label], tuple(corners), outline, left_out, made_by)
        for corners, label, outline, left_out in zip(target.boxes, target.labels, outlines, ignored, strict=True)
    ]
    facts = {key: tuple(class_names[place] for place in places) for key, places in (target.facts or {}).items()}
    return _listed(name, boxes, size, made_by, item.split, facts.get("absent"), facts.get("partial", ()))


def _drawn(item: Item) -> Boxes:
    """The boxes of an item, or the outlines that its mask is drawn from."""
    outlines = getattr(item.target, "outlines", None)
    return annotated_boxes(item) if outlines is None else outlines


def _listed(name, boxes, size, made_by="", split="", absent=None, partial=()) -> ListedImage:
    listed_in = Path(IMAGES)
    return ListedImage(name, listed_in, (listed_in,), tuple(boxes), split, size, absent, partial, made_by=made_by)


def _either(own: DomainData, new: DomainData) -> Callable[[Item], Decoded]:
    theirs = {id(item) for item in own.items}
    return lambda item: own.load(item) if id(item) in theirs else new.load(item)


def _ending(item: Item) -> str:
    return item.source.suffix.lower() if _is_file(item) else ".png"


def _is_file(item: Item) -> bool:
    return Format.of(item.source, [IMAGE]) is not None and not PARTS & item.decode.keys()


def _contents(items: Sequence[Item]) -> set[tuple[str, str]]:
    """What each item shows: the bytes of its file, and which part of them."""
    hashes = FileHashes()
    parts = [sorted((key, str(value)) for key, value in item.decode.items() if key in PARTS) for item in items]
    return {(hashes.sha256(item.source), repr(part)) for item, part in zip(items, parts)}


def _size(item: Item, load: Callable[[Item], Decoded]) -> tuple[int, int]:
    """(width, height): by the header where that is an image file's own."""
    if _is_file(item):
        return IMAGE.size_of(item.source, item.decode)
    height, width = load(item).shape[:2]
    return width, height
