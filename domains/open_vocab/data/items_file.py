"""A read set as one JSON file: what a config names, so that a training sees the very items that were chosen for it.

Version 1: {"format": "vladapt-items", "version": 1, "kind", "name", "class_names", "frequency", "licence", "notes",
"masks": the table of mask values, "items": [fields of the item and of its boxes or mask that are not empty]}.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....core.contracts import Boxes, Decoded, DomainData, Item, Mask
from ....core.data import IMAGE, Format, loader
from ....core.errors import DataError, shortened
from ....core.runtime import caching, read_json, read_start
from .boxes import annotated_boxes
from .masks import MaskReader, annotated_mask
from .outlines import valid_outline

FORMAT, VERSION = "vladapt-items", 1
STORED_VALUES = 256
"""Numbers that a mask may store."""
RGB = 3
MOST_PIXELS = 10**11
"""Of an image; the option max_pixels has the same bound."""
EMPTY: tuple[Any, ...] = (None, "", {})


def write_items(path: str | Path, data: DomainData, *, images: str | Path | None = None) -> Path:
    """Write a set.

    Args:
        path: the file.
        data: of boxes or masks.
        images: a folder to save images and masks in, as PNG; needed where items are not files (a generated set). None
            refers to the files they are.

    Raises:
        DataError: an item has a mask that is not a file, and no folder is given.
    """
    path = Path(path)
    if images is not None:
        data = _saved(data, Path(images))
    reader = data.load_mask
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": data.kind,
        "name": data.name,
        "class_names": list(data.class_names),
        "frequency": None if data.frequency is None else list(data.frequency),
        "licence": data.licence,
        "notes": list(data.notes),
        "masks": reader.as_data() if isinstance(reader, MaskReader) else None,
        "items": [_as_data(item) for item in data.items],
    }
    if data.load_mask is not None and content["masks"] is None:
        raise DataError(f"{path}: the masks of {data.name} are generated, not stored; give a folder to save images in")
    with caching(path) as file:
        file.write(json.dumps(content).encode())
    return path


def read_items(path: str | Path, formats: Sequence[Format] = (IMAGE,)) -> DomainData:
    """Read what `write_items` wrote.

    Raises:
        DataError: the file cannot be read, is no such file, or of a later version.
    """
    path = Path(path)
    try:
        content = read_json(path, "not a complete file of items, write it again")
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise DataError(f"{path}: written by another version ({content['version']!r}); write it again")
        names = tuple(content["class_names"])
        if not all(isinstance(text, str) for text in (*names, content["kind"], content["name"], content["licence"])):
            raise TypeError("a name is no text")
        return DomainData(
            items=[_checked(_item(entry, content["kind"]), len(names)) for entry in content["items"]],
            class_names=names,
            load=loader(formats),
            kind=content["kind"],
            name=content["name"],
            notes=[str(note) for note in content["notes"]],
            licence=content["licence"],
            load_mask=None if content["masks"] is None else MaskReader.of(content["masks"]),
            frequency=None if content["frequency"] is None else tuple(content["frequency"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = shortened(repr(error))
        raise DataError(f"{path}: not a complete file of items ({reason}); write it again") from error


def is_items_file(path: Path) -> bool:
    """Whether a JSON file begins as `write_items` begins one."""
    try:
        return f'"format": "{FORMAT}"'.encode() in read_start(path, 100)
    except DataError:
        return False


def _as_data(item: Item) -> dict[str, Any]:
    """The item and its target in one table, without what is empty."""
    values = {"id": item.id, "source": item.source, "decode": item.decode, "group": item.group, "split": item.split}
    values |= {"draw": item.draw}
    if isinstance(item.target, Boxes):
        values |= _boxes_as_data(item.target)
    elif isinstance(item.target, Mask):
        mask = item.target
        values |= {} if mask.outlines is None else _boxes_as_data(mask.outlines)
        values |= {"mask": mask.file, "labels": mask.labels}
        values |= {} if mask.size is None else {"size": mask.size}
        values |= {} if mask.only is None else {"facts": {"only": mask.only}}
    values = {name: value for name, value in values.items() if not any(value is e or value == e for e in EMPTY)}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in values.items()}


def _boxes_as_data(boxes: Boxes) -> dict[str, Any]:
    values = {name: getattr(boxes, name) for name in ("boxes", "segments", "ignored", "size", "facts")}
    return {**values, "box_labels": boxes.labels}


def _checked(item: Item, classes: int) -> Item:
    """The item, if what it says can be used.

    Raises:
        ValueError, TypeError: it cannot.
    """
    boxes = item.target.outlines if isinstance(item.target, Mask) else item.target
    if boxes is not None:
        if any(len(box) != 4 or not all(map(math.isfinite, box)) for box in boxes.boxes):
            raise ValueError("a box is not four finite numbers")
        if len(boxes.labels) != len(boxes.boxes):
            raise ValueError("boxes and labels differ in number")
        numbers = STORED_VALUES if isinstance(item.target, Mask) else classes  # outlines are looked up in a table
        if not all(type(label) is int and 0 <= label < numbers for label in boxes.labels):
            raise ValueError("a label is no class")
        for listed in (boxes.segments, boxes.ignored):
            if listed is not None and len(listed) != len(boxes.boxes):
                raise ValueError("boxes and what is said of them differ in number")
        _check_size(boxes.size)
        if boxes.segments is not None and boxes.size is None:
            raise ValueError("outlines without the size of their image")
        for outline in boxes.segments or ():
            if outline is not None and valid_outline(outline, boxes.size) != outline:
                raise ValueError("an outline that cannot be drawn")
    if isinstance(item.target, Mask):
        _check_size(item.target.size)
        if item.target.labels is not None and len(item.target.labels) != classes:
            raise ValueError("a mask that says nothing of some class")
    if not isinstance(item.id, str) or not isinstance(item.decode, dict) or item.split not in ("", *Item.SPLITS):
        raise ValueError("an item has no usable id, part or split")
    return item


def _check_size(size: tuple | None) -> None:
    whole = size is None or (len(size) == 2 and all(type(side) is int and side > 0 for side in size))
    if not whole or (size is not None and size[0] * size[1] > MOST_PIXELS):
        raise ValueError("a size is not two whole numbers")


def _item(entry: dict[str, Any], kind: str) -> Item:
    target = _mask(entry) if kind == "masks" else _boxes(entry)
    further = {name: entry[name] for name in ("decode", "group", "split", "draw") if name in entry}
    return Item(id=entry["id"], source=Path(entry["source"]), target=target, **further)


def _boxes(entry: dict[str, Any]) -> Boxes:
    return Boxes(
        boxes=tuple(tuple(map(float, box)) for box in entry.get("boxes", ())),
        labels=tuple(entry.get("box_labels", ())),
        segments=_tuple(entry, "segments"),
        ignored=_tuple(entry, "ignored"),
        size=_tuple(entry, "size"),
        facts=entry.get("facts"),
    )


def _mask(entry: dict[str, Any]) -> Mask:
    facts = entry.get("facts") or {}
    return Mask(
        file=Path(entry["mask"]) if "mask" in entry else None,
        outlines=replace(_boxes(entry), facts=None) if "boxes" in entry else None,
        labels=_tuple(entry, "labels"),
        size=_tuple(entry, "size"),
        only=_tuple(facts, "only"),
    )


def _tuple(entry: dict[str, Any], name: str) -> tuple | None:
    return tuple(entry[name]) if name in entry else None


def _saved(data: DomainData, folder: Path) -> DomainData:
    """The set with every image, and every mask, as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, item in enumerate(data.items):
        image = folder / f"{number:06d}.png"
        pixels = to_uint8(data.load(item))
        Image.fromarray(pixels).save(image)
        size = (pixels.shape[1], pixels.shape[0])
        if data.load_mask is None:
            target = replace(annotated_boxes(item), size=size)
        else:
            target = replace(annotated_mask(item), size=size, file=folder / f"{number:06d}_mask.png")
            Image.fromarray(np.asarray(data.load_mask(item), dtype=np.uint8)).save(target.file)
        items.append(item.with_(source=image, decode={}, target=target))
    reader = None
    if data.load_mask is not None:
        reader = MaskReader(values={position: position for position in range(len(data.class_names))})
    saved = data.with_items(items)
    saved.load, saved.load_mask = loader((IMAGE,)), reader
    return saved


def to_uint8(pixels: Decoded) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded image, of more channels the first three."""
    pixels = pixels[..., :RGB]
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
