"""Masks as class numbers: what a file stores is looked up in the set's table, outlines are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Item, Mask
from ....core.data import IMAGE
from ....core.errors import DataError, shortened
from ....core.registry import load_domain
from .mask_tables import MOST_STORED
from .outlines import outline_mask

IGNORED = 255
"""The value of pixels that are neither learned from nor counted."""
MOST_CLASSES = 255


@dataclass(frozen=True)
class MaskReader:
    """Decodes the mask of an item: called as reader(item).

    Args:
        values: stored number -> class index; any other number is ignored.
        colours: (red, green, blue) -> class index, for masks that store colours.
        classes: class index -> index, applied last, for a choice of classes; None keeps them.
        background: class index of pixels outside all outlines of an item without a mask file; None ignores them.
    """

    values: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    classes: Mapping[int, int] | None = None
    background: int | None = None

    def __call__(self, item: Item) -> np.ndarray:
        """(H, W) uint8: class indices, `IGNORED` elsewhere and where the image has no value.

        Raises:
            DataError: the file cannot be read, or is of another kind than the table.
        """
        file = annotated_mask(item).file
        labels = self._drawn(item) if file is None else self._looked_up(Path(file), item)
        labels, valid = _chosen(labels, self.classes, item), image_valid_pixels(item)
        if valid is None or valid.shape != labels.shape:  # masks of another size are refused where images are loaded
            return labels
        return np.where(valid, labels, np.uint8(IGNORED))

    def choose(self, new: Mapping[int, int]) -> MaskReader:
        """A reader with class indices replaced, and those without a new one ignored."""
        return replace(self, classes=_after(self.classes, new))

    def as_data(self) -> dict[str, Any]:
        """JSON-able; `MaskReader.of` reads it."""
        return {
            "values": sorted(map(list, self.values.items())),
            "colours": sorted([list(colour), index] for colour, index in self.colours.items()),
            "classes": None if self.classes is None else sorted(map(list, self.classes.items())),
            "background": self.background,
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> MaskReader:
        """From `as_data`.

        Raises:
            ValueError, KeyError, TypeError: it is not what `as_data` gives.
        """
        _check_stored(data["values"], data["colours"])
        return cls(
            values={int(value): int(index) for value, index in data["values"]},
            colours={tuple(colour): int(index) for colour, index in data["colours"]},
            classes=None if data["classes"] is None else {int(old): int(index) for old, index in data["classes"]},
            background=data["background"],
        )

    @cached_property
    def _value_table(self) -> np.ndarray:
        return _lookup(self.values, max(self.values, default=0) + 2)

    @cached_property
    def _colour_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Packed colours in ascending order, and their classes."""
        packed = np.array([_packed(np.array(colour)) for colour in self.colours], dtype=np.int64)
        order = np.argsort(packed)
        return packed[order], np.array(list(self.colours.values()), dtype=np.uint8)[order]

    def _looked_up(self, path: Path, item: Item) -> np.ndarray:
        stored = IMAGE.values(path, bool(self.colours), int(item.decode.get("max_pixels", Item.MAX_PIXELS)))
        if self.colours:
            known, classes = self._colour_table
            packed = _packed(stored)
            place = np.minimum(np.searchsorted(known, packed), len(known) - 1)
            return np.where(known[place] == packed, classes[place], IGNORED).astype(np.uint8)
        if stored.ndim == 3:
            raise DataError(f"{path}: stores colours, and no table says which class each is; add labelmap.txt")
        table = self._value_table
        inside = (stored >= 0) & (stored < len(table))
        return table[np.where(inside, stored, len(table) - 1)]  # the last entry is always an ignored one

    def _drawn(self, item: Item) -> np.ndarray:
        """Outlines on each other, the largest first; boxes without an outline and ignored objects are ignored."""
        drawn = annotated_mask(item).outlines
        if drawn is None or drawn.size is None:
            raise DataError(f"{item.id}: has neither a mask file nor outlines; remove it")
        width, height = drawn.size
        labels = np.full((height, width), IGNORED if self.background is None else self.background, dtype=np.uint8)
        none = (None,) * len(drawn.boxes)
        objects = [
            (_area(drawn.size, outline, box), label, bool(left_out))
            for box, label, outline, left_out in zip(
                drawn.boxes, drawn.labels, drawn.segments or none, drawn.ignored or none, strict=True
            )
        ]
        for known, label, left_out in sorted(objects, key=lambda entry: (not entry[2], -entry[0][1])):
            pixels, _, has_outline = known
            labels[pixels] = IGNORED if left_out or not has_outline else label
        return labels


def image_valid_pixels(item: Item) -> np.ndarray | None:
    """(H, W) bool, where an image has values, as the domain says that decodes it; None: everywhere."""
    decode = dict(item.decode)
    domain = decode.pop(Item.READ_BY, None)
    return None if domain is None else load_domain(domain).valid(item.source, decode)


def _check_stored(values: Iterable[tuple[int, int]], colours: Iterable[tuple[Sequence[int], int]]) -> None:
    """Refuse a table that no mask could be looked up in.

    Args:
        values: (stored number, class index).
        colours: (three channels, class index).

    Raises:
        ValueError: a number below 0 or of more than 24 bits, a channel beyond 0..255, or a class index beyond 0..255.
    """
    for value, index in values:
        if not 0 <= int(value) < MOST_STORED or not 0 <= int(index) <= MOST_CLASSES:
            raise ValueError(f"the number {shortened(value)} of class {shortened(index)}")
    for colour, index in colours:
        in_range = len(colour) == 3 and all(0 <= int(channel) <= 255 for channel in colour)
        if not in_range or not 0 <= int(index) <= MOST_CLASSES:
            raise ValueError(f"the colour {shortened(colour)} of class {shortened(index)}")


@dataclass(frozen=True)
class MadeMasks:
    """The masks of a set that makes them itself, with a choice of classes; called as a `MaskReader` is.

    Args:
        make: item -> (H, W) uint8.
        classes: class index -> index; None keeps them.
    """

    make: Callable[[Item], np.ndarray]
    classes: Mapping[int, int] | None = None

    def __call__(self, item: Item) -> np.ndarray:
        return _chosen(np.asarray(self.make(item), dtype=np.uint8), self.classes, item)

    def choose(self, new: Mapping[int, int]) -> MadeMasks:
        """As of `MaskReader`."""
        return replace(self, classes=_after(self.classes, new))


def choosable(load_mask: Callable[[Item], np.ndarray]) -> MaskReader | MadeMasks:
    """A reader that takes a choice of classes."""
    return load_mask if isinstance(load_mask, (MaskReader, MadeMasks)) else MadeMasks(load_mask)


def annotated_mask(item: Item) -> Mask:
    """The mask of an item; an empty one where its set makes masks itself (`MadeMasks`)."""
    return item.target if isinstance(item.target, Mask) else Mask()


def _chosen(labels: np.ndarray, classes: Mapping[int, int] | None, item: Item) -> np.ndarray:
    """Class indices replaced; then those ignored that the item must not teach (`Mask.only`)."""
    labels = labels if classes is None else _lookup(classes, 256)[labels]
    only = annotated_mask(item).only
    return labels if only is None else _lookup({index: index for index in only}, 256)[labels]


def _after(before: Mapping[int, int] | None, new: Mapping[int, int]) -> dict[int, int]:
    """Two replacements in one."""
    first = {index: index for index in range(MOST_CLASSES)} if before is None else before
    return {old: new[index] for old, index in first.items() if index in new}


def _area(size: tuple[int, int], outline: Any, box: tuple[float, ...]) -> tuple[Any, int, bool]:
    """Pixels of an object, how many, and whether they are an outline's and not a box's."""
    if outline is not None:
        pixels = outline_mask(outline, size)
        return pixels, int(pixels.sum()), True
    x0, y0, x1, y1 = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
    return (slice(y0, y1), slice(x0, x1)), (y1 - y0) * (x1 - x0), False


def _packed(colours: np.ndarray) -> np.ndarray:
    wide = colours.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _lookup(mapping: Mapping[int, int], size: int) -> np.ndarray:
    table = np.full(size, IGNORED, dtype=np.uint8)
    for value, index in mapping.items():
        table[value] = index
    return table
