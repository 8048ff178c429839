"""A set of semantic masks of whatever kind lies at a path."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import DomainData, Item, Mask
from ....core.data import IMAGE, Format, ItemCollector, shown, visible
from ....core.errors import DataError
from .boxes import annotated_boxes, data_of_boxes
from .classes import choose_classes
from .coco_boxes import find_coco_annotations, read_coco_boxes
from .items_file import is_items_file, read_items
from .mask_pairs import MaskPair, MaskSet, find_masks
from .mask_tables import MaskTable, table_beside
from .masks import IGNORED, MOST_CLASSES, MaskReader

WHAT_IS_READ = (
    "images/ and masks/ (also below train, val, test, with classes.json or classes.txt), the folders of VOC, ADE20K or "
    "Cityscapes, or COCO JSON with outlines"
)
BACKGROUND = "background"
BINARY = (BACKGROUND, "foreground")


def read_segmentation(
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    reduce_zero_label: bool = False,
    background: bool = True,
    formats: Sequence[Format] = (IMAGE,),
) -> DomainData:
    """A set of kind "masks": `load_mask` decodes an item's mask, `labels` tells which classes it shows.

    Args:
        path: folder, or a COCO JSON file whose outlines are drawn as masks.
        class_names: which classes, in which order; all that the data name by default. Where nothing names them: the
            names of the stored numbers, in ascending order.
        reduce_zero_label: 0 stands for no class: ignored, and number 1 is the first class.
        background: whether pixels outside all outlines are a class of that name, the first one, or ignored. For COCO.
        formats: what counts as an image.

    Raises:
        DataError: nothing there that can be read, or nothing in it that can be used; the message says what would be.
        ConfigError: a class that the data do not have.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give {WHAT_IS_READ}")
    if path.is_file():
        data = _from_file(path, background, formats)
    else:
        if not visible(path):
            raise DataError(f"{path}: empty folder; give {WHAT_IS_READ}")
        collector = ItemCollector()
        masks = find_masks(path, collector, formats)
        if masks is not None and masks.pairs:
            data = _from_masks(path, masks, collector, class_names, reduce_zero_label, formats)
        elif find_coco_annotations(path):
            data = outlines_as_masks(data_of_boxes(read_coco_boxes(path), formats), background)
        else:
            raise DataError(f"{path}: holds no images with masks; give {WHAT_IS_READ}")
    return data if class_names is None else choose_classes(data, class_names)


def outlines_as_masks(data: DomainData, background: bool = True) -> DomainData:
    """A set of boxes with outlines as one of masks, drawn when they are asked for.

    Small objects lie on large ones. Ignored are crowds, and boxes without an outline. Images without any object stay.

    Args:
        data: of kind "boxes".
        background: whether the rest is a class, the first one, or ignored.

    Raises:
        DataError: no outline, or more classes than masks can hold.
    """
    if not any(annotated_boxes(item).segments for item in data.items):
        raise DataError(f"{data.name}: has boxes but no outlines, so no masks; give polygons or mask files")
    shift = int(background and BACKGROUND not in data.class_names)
    names = (BACKGROUND, *data.class_names) if shift else data.class_names
    _check_count(data.name, names)
    rest = names.index(BACKGROUND) if background else None
    items = []
    for item in data.items:
        boxes = annotated_boxes(item)
        labels = tuple(label + shift for label in boxes.labels)
        shows = {label for label, outline in zip(labels, boxes.segments or ()) if outline is not None}
        shows |= set() if rest is None else {rest}
        multi_hot = tuple(float(position in shows) for position in range(len(names)))
        outlines = replace(boxes, labels=labels, facts=None)
        items.append(item.with_(target=Mask(outlines=outlines, labels=multi_hot, size=boxes.size)))
    reader = MaskReader(background=rest)
    return replace(data, items=items, class_names=names, kind="masks", load_mask=reader, frequency=None)


def _from_file(path: Path, background: bool, formats: Sequence[Format]) -> DomainData:
    if path.suffix.lower() != ".json":
        raise DataError(f"{path}: not a known kind of segmentation set; give {WHAT_IS_READ}")
    if is_items_file(path):
        return read_items(path)
    return outlines_as_masks(data_of_boxes(read_coco_boxes(path), formats), background)


@dataclass(frozen=True)
class _Seen:
    """What a mask stores: distinct numbers, or (n, 3) colours; or why the pair cannot be used."""

    stored: np.ndarray | None
    size: tuple[int, int] | None = None
    reason: str = ""
    decode: Mapping[str, Any] = field(default_factory=dict)


def _from_masks(
    folder: Path,
    masks: MaskSet,
    collector: ItemCollector,
    class_names: Sequence[str] | None,
    reduce_zero_label: bool,
    formats: Sequence[Format],
) -> DomainData:
    beside = table_beside(masks.places)
    table = beside[0] if beside is not None else masks.table
    colours_only = table is not None and bool(table.colours) and not table.values
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        seen = list(pool.map(lambda pair: _look(pair, colours_only, formats), masks.pairs))
    usable = []
    for pair, what in zip(masks.pairs, seen, strict=True):
        if what.reason:
            collector.skip(shown(pair.image, folder), what.reason)
        else:
            usable.append((pair, what))
    if not usable:
        name, reason = collector.skipped[0]
        raise DataError(f"{folder}: none of its {len(masks.pairs)} masks can be used; the first is {name} ({reason})")
    in_colour = any(what.stored.ndim == 2 for _, what in usable)
    notes = [f"Images without a mask, left out: {masks.unmasked}."] if masks.unmasked else []
    if in_colour:
        table, chosen = _coloured(folder, table), "colours"
    else:
        values = sorted({int(value) for _, what in usable for value in what.stored})
        table, chosen = _numbered(folder, table, values, class_names, reduce_zero_label, notes), "values"
    _check_count(folder, table.names)
    reader = MaskReader(**{chosen: getattr(table, chosen)})
    unlisted: Counter = Counter()
    items = [_item(pair, what, table, folder, in_colour, unlisted) for pair, what in usable]
    if unlisted:
        first = ", ".join(map(str, sorted(unlisted)[:10]))
        notes.append(f"Values in masks that name no class, ignored: {first} (in {max(unlisted.values())} masks).")
    if not any(any(item.target.labels) for item in items):
        raise DataError(
            f"{folder}: no mask holds a listed class: stored are {', '.join(map(str, sorted(unlisted)[:10]))}, "
            f"listed are {', '.join(map(str, list(getattr(table, chosen))[:10]))}; correct {_source(beside)}"
        )
    what = {"kind": "masks", "load_mask": reader, "notes": notes}
    return collector.data_set(folder, formats, table.names, items=items, **what)


def _look(pair: MaskPair, colours: bool, formats: Sequence[Format]) -> _Seen:
    fmt = Format.of(pair.image, formats)
    try:
        decode = next(iter(fmt.expand(pair.image)), {})
        size, stored = fmt.size_of(pair.image, decode), IMAGE.values(pair.mask, colours, fmt.max_pixels)
    except DataError as error:
        return _Seen(None, reason=str(error))
    height, width = stored.shape[:2]
    if (width, height) != size:
        return _Seen(
            None,
            reason=f"its mask {pair.mask.name} is {width} x {height}, the image {size[0]} x {size[1]}; make them equal",
        )
    if stored.ndim == 2:
        return _Seen(np.unique(stored), size, decode=decode)
    return _Seen(np.unique(stored.reshape(-1, 3), axis=0), size, decode=decode)


def _coloured(folder: Path, table: MaskTable | None) -> MaskTable:
    if table is None or not table.colours:
        raise DataError(
            f"{folder}: its masks store colours, and nothing says which class each is; add labelmap.txt "
            "(name:r,g,b:: per line) or classes.json ({name: [r, g, b]})"
        )
    return table


def _numbered(
    folder: Path,
    table: MaskTable | None,
    values: list[int],
    class_names: Sequence[str] | None,
    reduce_zero_label: bool,
    notes: list[str],
) -> MaskTable:
    """What the numbers that occur stand for."""
    if table is not None and table.values:
        if set(table.values) == {0, 1} and values == [0, IGNORED]:
            return MaskTable(table.names, {0: table.values[0], IGNORED: table.values[1]})
        return table.without_zero() if reduce_zero_label else table
    counted = [value for value in values if value != IGNORED and not (reduce_zero_label and value == 0)]
    if class_names is None:
        if values not in ([0, 1], [0, IGNORED], [0, 1, IGNORED]) or reduce_zero_label:
            raise DataError(
                f"{folder}: its masks store {', '.join(map(str, values[:10]))} but nothing names them; add "
                "classes.json or give class_names"
            )
        notes.append("Nothing names the classes: 0 is 'background', the rest 'foreground'; --class-names names them.")
        class_names = BINARY
    offset = int(reduce_zero_label)
    if values == [0, IGNORED] and len(class_names) == 2 and not reduce_zero_label:
        numbers = values
    elif not counted or max(counted) - offset < len(class_names):
        numbers = range(offset, len(class_names) + offset)
    elif len(counted) == len(class_names):
        numbers = counted
    elif len(values) == len(class_names):
        numbers = values
    else:
        raise DataError(
            f"{folder}: class_names are {len(class_names)} ({', '.join(class_names[:10])}), but its masks store "
            f"{len(values)} numbers ({', '.join(map(str, values[:10]))}); name each, or add classes.json"
        )
    return MaskTable(tuple(class_names), {value: position for position, value in enumerate(numbers)})


def _item(pair: MaskPair, what: _Seen, table: MaskTable, folder: Path, in_colour: bool, unlisted: Counter) -> Item:
    keys = what.stored
    if in_colour:
        keys = keys if keys.ndim == 2 else np.repeat(keys[:, None], 3, axis=1)
        stored = [tuple(int(channel) for channel in colour) for colour in keys]
        known = {colour: table.colours.get(colour) for colour in stored}
    else:
        known = {int(value): table.values.get(int(value)) for value in keys}
    unlisted.update(key for key, position in known.items() if position is None and key != IGNORED)
    shows = set(known.values())
    labels = tuple(float(position in shows) for position in range(len(table.names)))
    target = Mask(pair.mask, labels=labels, size=what.size)
    id_, decode = shown(pair.image, folder), dict(what.decode)
    return Item(id=id_, source=pair.image, decode=decode, target=target, split=pair.split)


def _check_count(where: object, names: Sequence[str]) -> None:
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{where}: {len(names)} classes, but masks hold at most {MOST_CLASSES}; choose some by class_names"
        )


def _source(beside: tuple[MaskTable, Path] | None) -> str:
    return beside[1].name if beside is not None else "the masks, or add classes.json"
