"""A read set as one JSON file: what a config names, so that a training sees the very items that were chosen for it.

Version 1: {"format": "vladapt-items", "version": 1, "kind", "name", "class_names", "frequency", "licence", "notes",
"masks": the table of mask values, "items": [fields that are not empty]}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....core.contracts.domain import Decoded, DomainData, Item
from ....core.contracts.errors import DataError
from ....core.data.formats import Format, loader
from ....core.data.images import IMAGE
from ....core.runtime.files import write_cached
from .masks import MaskReader

FORMAT, VERSION = "vladapt-items", 1
TUPLES = ("boxes", "box_labels", "segments", "ignored", "size", "labels", "captions")
EMPTY = (None, "", {})


def write_items(path: str | Path, data: DomainData, *, images: str | Path | None = None) -> Path:
    """Write a set.

    Args:
        path: the file.
        data: of boxes or masks.
        images: a folder to save images and masks in, as PNG; needed where items are not files (a generated set). None
            refers to the files they are.

    Raises:
        DataError: an item has a mask that is no file, and no folder is given.
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
        raise DataError(f"{path}: the masks of {data.name} are made, not stored; give a folder to save images in")
    write_cached(path, json.dumps(content).encode())
    return path


def read_items(path: str | Path, formats: Sequence[Format] = (IMAGE,)) -> DomainData:
    """Read what `write_items` wrote.

    Raises:
        DataError: the file cannot be read, is no such file, or of a later version.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise DataError(f"{path}: written by another version ({content['version']!r}); write it again")
        return DomainData(
            items=[_item(entry) for entry in content["items"]],
            class_names=tuple(content["class_names"]),
            load=loader(formats),
            kind=content["kind"],
            name=content["name"],
            notes=list(content["notes"]),
            licence=content["licence"],
            load_mask=None if content["masks"] is None else MaskReader.of(content["masks"]),
            frequency=None if content["frequency"] is None else tuple(content["frequency"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no whole file of items ({error!r}); write it again") from error


def is_items_file(path: Path) -> bool:
    """Whether a JSON file begins as `write_items` begins one."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return f'"format": "{FORMAT}"' in file.read(100)
    except OSError:
        return False


def _as_data(item: Item) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    values = {name: value for name, value in values.items() if not any(value is e or value == e for e in EMPTY)}
    return {name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in values.items()}


def _item(entry: dict[str, Any]) -> Item:
    values = {name: tuple(value) if name in TUPLES else value for name, value in entry.items()}
    if "boxes" in values:
        values["boxes"] = tuple(tuple(map(float, box)) for box in values["boxes"])
    for name in ("source", "mask"):
        if name in values:
            values[name] = Path(values[name])
    return Item(**values)


def _saved(data: DomainData, folder: Path) -> DomainData:
    """The set with every image, and every mask, as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, item in enumerate(data.items):
        image = folder / f"{number:06d}.png"
        pixels = to_uint8(data.load(item))
        Image.fromarray(pixels).save(image)
        changes: dict[str, Any] = {"source": image, "decode": {}, "size": (pixels.shape[1], pixels.shape[0])}
        if data.load_mask is not None:
            changes["mask"] = folder / f"{number:06d}_mask.png"
            Image.fromarray(np.asarray(data.load_mask(item), dtype=np.uint8)).save(changes["mask"])
        items.append(item.with_(**changes))
    reader = None
    if data.load_mask is not None:
        reader = MaskReader(values={position: position for position in range(len(data.class_names))})
    saved = data.with_items(items)
    saved.load, saved.load_mask = loader((IMAGE,)), reader
    return saved


def to_uint8(pixels: Decoded) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded image."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
