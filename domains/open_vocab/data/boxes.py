"""Boxes as annotation files list them, brought to items by the rules of docs/open-vocab-data.md.

What is left out is counted in notes; an image that is not there, or is none, is listed in `skipped`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ....core.contracts import Boxes, DomainData, Item
from ....core.data import (
    IMAGE,
    Box,
    Format,
    ItemCollector,
    ListedImage,
    locate,
    shown,
)
from ....core.errors import DataError
from .outlines import corners_of, valid_outline

Corners = tuple[float, float, float, float]

CLIPPED = "Boxes that reached more than a pixel beyond their image, cut at its edge"
OUTSIDE = "Boxes outside their image, left out"
FLAT = "Boxes without area, left out"
NOT_FINITE = "Boxes with a coordinate that is not a number, left out"
BAD_OUTLINE = "Unusable outlines, left out (their boxes stay)"
NO_OUTLINE = "Boxes without an outline, which models that learn outlines do not learn from"
OTHER_SIZE = "Images of another size than their annotation says; boxes are taken as pixels of the file"
JOINED = "Images listed twice, their boxes joined"
IGNORED = "Boxes that are neither trained on nor counted (crowds, difficult objects)"
EMPTY = "Images without a box, kept as background"


@dataclass
class BoxSet:
    """What a reader found.

    Args:
        images: all of them.
        class_names: in order.
        folder: of the set.
        counts: sentence -> how often; what was dropped.
        notes: of the reader.
        skipped: (file, reason).
        frequency: of each class, or None.
    """

    images: list[ListedImage]
    class_names: Sequence[str]
    folder: Path
    counts: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    frequency: tuple[str, ...] | None = None


def data_of_boxes(box_set: BoxSet, formats: Sequence[Format] = (IMAGE,)) -> DomainData:
    """The set with one item per image.

    Raises:
        DataError: a path leaves the folder, no image is there, or no box can be used.
    """
    reading = _Reading(box_set, formats)
    for image in box_set.images:
        reading.add(image)
    items, counts = reading.items(), reading.counts
    if not items:
        reason = f"; the first is {reading.skipped[0][0]}: {reading.skipped[0][1]}" if reading.skipped else ""
        raise DataError(f"{box_set.folder}: none of the listed images can be read{reason}; put them into images/")
    if not any(item.target.boxes for item in items):
        raise DataError(f"{box_set.folder}: no usable box in {len(items)} images{_dropped(counts)}; annotate some")
    counts[EMPTY] += sum(not item.target.boxes for item in items)
    counts[NO_OUTLINE] += _without_outline(items)
    notes = [*box_set.notes, *(f"{sentence}: {count}." for sentence, count in sorted(counts.items()) if count)]
    what = {"kind": "boxes", "notes": notes, "frequency": box_set.frequency}
    collector = ItemCollector(items, [*box_set.skipped, *reading.skipped])
    return collector.data_set(box_set.folder, formats, box_set.class_names, **what)


def annotated_boxes(item: Item) -> Boxes:
    """The boxes of an item; none where nothing is annotated, or something else."""
    return item.target if isinstance(item.target, Boxes) else Boxes()


def _without_outline(items: Sequence[Item]) -> int:
    """Boxes without an outline that are learned from, in a set that has outlines."""
    if not any(item.target.segments for item in items):
        return 0
    return sum(
        outline is None and not ignored
        for item in items
        for outline, ignored in zip(
            item.target.segments or (None,) * len(item.target.boxes),
            item.target.ignored or (False,) * len(item.target.boxes),
            strict=True,
        )
    )


class _Reading:
    def __init__(self, box_set: BoxSet, formats: Sequence[Format]):
        self.folder, self.formats, self.counts = box_set.folder, formats, Counter(box_set.counts)
        self.index = {name: position for position, name in enumerate(box_set.class_names)}
        self.trust_sizes = len(box_set.images) > DomainData.VERIFIED_UP_TO
        self.skipped: list[tuple[str, str]] = []
        self.by_place: dict[tuple[Path, str], tuple[ListedImage, tuple[int, int], dict[str, Any]]] = {}

    def add(self, image: ListedImage) -> None:
        path = locate(image.name, image.roots, str(image.listed_in))
        if path is None:
            self.skipped.append((image.name, f"no such file; looked in {', '.join(map(str, image.roots))}"))
            return
        known = self.by_place.get((path, image.split))
        if known is not None:
            self.counts[JOINED] += 1
            joined = replace(known[0], boxes=_joined(known[0].boxes, image.boxes))
            self.by_place[path, image.split] = (joined, *known[1:])
            return
        fmt = Format.of(path, self.formats)
        if fmt is None:
            self.skipped.append((shown(path, self.folder), "no reader for this kind of file"))
            return
        try:
            decode: dict[str, Any] = next(iter(fmt.expand(path)), {})
            self.by_place[path, image.split] = (image, self._size(path, image, fmt, decode), decode)
        except DataError as error:
            self.skipped.append((shown(path, self.folder), str(error)))

    def items(self) -> list[Item]:
        used: Counter = Counter()
        items = []
        for (path, _), (image, size, decode) in self.by_place.items():
            name = shown(path, self.folder)
            used[name] += 1
            id_ = name if used[name] == 1 else f"{name}#{used[name]}"
            items.append(self._item(id_, path, image, size).with_(decode=decode))
        return items

    def _size(self, path: Path, image: ListedImage, fmt: Format, decode: dict[str, Any]) -> tuple[int, int]:
        """(width, height) of the file."""
        if self.trust_sizes and image.size is not None and image.size[0] * image.size[1] <= fmt.max_pixels:
            return image.size
        size = fmt.size_of(path, decode)
        if image.size not in (None, size):
            self.counts[OTHER_SIZE] += 1
        return size

    def _item(self, id_: str, path: Path, image: ListedImage, size: tuple[int, int]) -> Item:
        kept = [made for box in image.boxes if (made := self._usable(box, size, image.relative)) is not None]
        facts = {
            key: sorted(self.index[name] for name in names if name in self.index)
            for key, names in (("absent", image.absent), ("partial", image.partial or None))
            if names is not None
        }
        ignored = tuple(box.ignored for box in kept)
        self.counts[IGNORED] += sum(ignored)
        outlines = tuple(box.outline for box in kept)
        return Item(
            id=id_,
            source=path,
            target=Boxes(
                boxes=tuple(box.corners for box in kept),
                labels=tuple(self.index[box.name] for box in kept),
                segments=outlines if any(outline is not None for outline in outlines) else None,
                ignored=ignored if any(ignored) else None,
                size=size,
                facts=facts or None,
            ),
            split=image.split,
            unreviewed=image.unreviewed,
        )

    def _usable(self, box: Box, size: tuple[int, int], relative: bool) -> Box | None:
        width, height = size
        outline = self._outline(_in_pixels(box.outline, size) if relative else box.outline, size)
        corners = box.corners
        if corners is None:
            corners = corners_of(outline, size) if outline is not None else None
        elif relative:
            corners = (corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height)
        if corners is None:
            self.counts[FLAT] += 1
            return None
        if not all(map(math.isfinite, corners)):
            self.counts[NOT_FINITE] += 1
            return None
        x0, y0, x1, y1 = corners
        if x1 <= x0 or y1 <= y0:
            self.counts[FLAT] += 1
            return None
        inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.counts[OUTSIDE] += 1
            return None
        if max(abs(a - b) for a, b in zip(corners, inside, strict=True)) > 1:
            self.counts[CLIPPED] += 1
        return replace(box, corners=inside, outline=outline)

    def _outline(self, written: Any, size: tuple[int, int]) -> Any:
        if not written:
            return None
        outline = valid_outline(written, size)
        self.counts[BAD_OUTLINE] += outline is None
        return outline


def _in_pixels(outline: Any, size: tuple[int, int]) -> Any:
    if not outline:
        return None
    return [[value * size[place % 2] for place, value in enumerate(polygon)] for polygon in outline]


def _joined(one: tuple[Box, ...], other: tuple[Box, ...]) -> tuple[Box, ...]:
    """Boxes of both; those that are in both once, with the outline that either has."""
    known = {(box.name, box.corners) for box in one}
    outlines = {(box.name, box.corners): box.outline for box in other}
    first = (replace(box, outline=box.outline or outlines.get((box.name, box.corners))) for box in one)
    return (*first, *(box for box in other if (box.name, box.corners) not in known))


def _dropped(counts: Counter) -> str:
    parts = [f"{sentence[0].lower()}{sentence[1:]}: {count}" for sentence, count in sorted(counts.items()) if count]
    return f" ({'; '.join(parts)})" if parts else ""
