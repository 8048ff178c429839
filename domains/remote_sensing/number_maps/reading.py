"""Images with a raster of numbers over each: one large image, folders of pairs, or a table; as windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import DomainData, Item
from ....core.data import Format, ItemCollector, Layout, Table, folders, locate, read_table, shown, split_named, walk
from ....core.errors import DataError
from ..localization.pictures import picture_size
from ..pictures import is_raster, masked_pixels
from ..places import files_of_item, with_blocks
from ..rasters import header_of
from ..windows import Box, Cutting, grids_of, rasters_of, window_boxes, window_item
from .target import NumberMap, NumberSource, source_over

IMAGES = ("images", "image", "imgs", "img")
TARGETS = ("targets", "target", "heights", "labels", "label")
TARGET_COLUMNS = ("target", "target_path", "height", "label", "mask")
KIND = "number maps"


@dataclass(frozen=True)
class TargetPair:
    """An image and its target; `split` "" where nothing says."""

    item: Item
    target: Path


def read_number_maps(path: Path, reading: Any, cutting: Cutting, layer: Path | None) -> DomainData:
    """Windows with a number for each pixel.

    Args:
        path: an image or a folder of images with `layer`; a folder with folders images and targets, or with train, val
            and test that hold these; or a table with columns image and target.
        reading: options of the reader.
        cutting: how images larger than a window are cut.
        layer: a target raster over all images; None where each image has its own.

    Raises:
        DataError: no such data, a file that cannot be read, a target that does not fit its image, or none has a number.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a raster with --labels, a folder or a table")
    if layer is not None:
        collector = rasters_of(path, layer, reading)
        pairs = [TargetPair(item, layer) for item in collector.items]
    else:
        collector, pairs = _listed(path, reading.formats) if path.is_file() else _in_folders(path, reading.formats)
    sources = [_source(pair, reading) for pair in pairs]
    grids, words = _windows(path, pairs, cutting, layer is not None)
    items: list[Item] = []
    empty = 0
    for pair, source, windows in zip(pairs, sources, grids):
        whole = len(windows) == 1
        for box, block, target in _measured(pair.item, source, windows):
            empty += target is None
            if target is not None:
                items.append(_part(pair.item, box, whole).with_(target=target, group=block or pair.item.group))
    if not items:
        raise DataError(f"{path}: no window of it has a number; check that image and target lie in the same place")
    notes = [f"Splits are by place: {words}, each on one side (--block-size)."] if words else []
    notes += [f"Windows without a number or without a value of the image, left out: {empty}."] if empty else []
    notes += sorted({_note_on_grid(pair, source) for pair, source in zip(pairs, sources) if source.grid})
    data = collector.data_set(path, reading.formats, items=items, kind=KIND, notes=notes, blocks=words)
    return data if words else with_blocks(data, reading.block_size if layer is None else 0)


def _source(pair: TargetPair, reading: Any) -> NumberSource:
    item = pair.item
    header = header_of(files_of_item(item), item.decode.get("sensor")) if is_raster(item.source) else None
    size = (header.height, header.width) if header is not None else picture_size(item)
    how = {"band": reading.target_band, "nodata": reading.target_nodata, "resample": reading.resample_target}
    return source_over(pair.target, item.source, header, size, **how)


def _windows(
    path: Path, pairs: Sequence[TargetPair], cutting: Cutting, large: bool
) -> tuple[list[list[tuple[Box, str | None]]], str]:
    """The windows of each image, each with its block or None; what the blocks are, "" for none."""
    if large:
        headers = [header_of(files_of_item(pair.item), pair.item.decode.get("sensor")) for pair in pairs]
        grids, words = grids_of(path, headers, cutting)
        names = [[block.name if words else None for block in blocks] for _, blocks in grids]
        return [list(zip(boxes, of_each)) for (boxes, _), of_each in zip(grids, names)], words
    images = []
    for pair in pairs:
        height, width = picture_size(pair.item)
        boxes = window_boxes(height, width, cutting)
        group = pair.item.group or (pair.item.id if len(boxes) > 1 else None)
        images.append([(box, group) for box in boxes])
    return images, ""


def _measured(
    item: Item, source: NumberSource, windows: Sequence[tuple[Box, str | None]]
) -> Iterator[tuple[Box, str | None, NumberMap | None]]:
    """Each window with its target; None where it, or the image, has nothing there."""
    with source.open() as dataset:
        for (box, block), seen in zip(windows, _seen(item, [box for box, _ in windows])):
            values, there = source.read(dataset, box)
            numbers = values[there & seen].astype(np.float64)
            if not len(numbers):
                yield box, block, None
                continue
            sums = len(numbers), float(numbers.sum()), float((numbers**2).sum())
            yield box, block, NumberMap(source, box, *sums)


def _seen(item: Item, boxes: Sequence[Box]) -> Iterator[np.ndarray | bool]:
    """Where the image has values in each window, in all bands that are looked at."""
    masked = is_raster(item.source) and header_of(files_of_item(item), item.decode.get("sensor")).masked
    for box in boxes:
        yield masked_pixels(item.source, {**item.decode, "window": list(box)})[1] if masked else True


def _part(item: Item, box: Box, whole: bool) -> Item:
    """A window of an image as an item; the image itself where it is its only window."""
    if whole:
        return item
    if is_raster(item.source):
        return window_item(item, box)
    left, top, width, height = box
    decode = {**item.decode, "box": [left, top, left + width, top + height]}
    return item.with_(id=f"{item.id}#{top}_{left}", decode=decode, apart=True)


def _note_on_grid(pair: TargetPair, source: NumberSource) -> str:
    how = "the mean of its pixels in each of the image's" if source.finer else "bilinear interpolation"
    return f"{pair.target.name} is brought to the pixels of the image by {how}."


def _in_folders(path: Path, formats: Sequence[Format]) -> tuple[ItemCollector, list[TargetPair]]:
    """The pairs of a folder: files of one name in its folders of images and of targets."""
    collector, pairs = ItemCollector(), []
    for part in (path, *(each for each in folders(path) if each.name.lower() in Layout.SPLITS)):
        split = "" if part == path else Layout.SPLITS[part.name.lower()]
        sides = [_side(part, names) for names in (IMAGES, TARGETS)]
        if None in sides:
            continue
        targets = {shown(file, sides[1]).rpartition(".")[0]: file for file in walk(sides[1], path, collector)}
        for file in walk(sides[0], path, collector):
            target = targets.pop(shown(file, sides[0]).rpartition(".")[0], None)
            if target is None:
                collector.skip(shown(file, path), f"no target of that name in {sides[1].name}")
                continue
            pairs += _paired(collector, file, shown(file, path), target, formats, split)
        for file in targets.values():
            collector.skip(shown(file, path), f"no image of that name in {sides[0].name}")
    if not pairs:
        raise DataError(
            f"{path}: no pairs of an image and a target; give folders images and targets with files of the same names, "
            "a table with columns image and target, or a raster with --labels TARGET.tif"
        )
    return collector, pairs


def _side(part: Path, names: Sequence[str]) -> Path | None:
    by_name = {each.name.lower(): each for each in folders(part)}
    return next((by_name[name] for name in names if name in by_name), None)


def _listed(path: Path, formats: Sequence[Format]) -> tuple[ItemCollector, list[TargetPair]]:
    """The pairs of a table."""
    if is_raster(path):
        raise DataError(f"{path}: a raster alone has no targets; give --labels TARGET.tif, a raster of numbers")
    table, collector, pairs = read_table(path), ItemCollector(), []
    image, target = table.column_of(Table.IMAGE), table.column_of(TARGET_COLUMNS)
    split = table.column_of(Table.SPLIT)
    if image is None or target is None:
        listed = ", ".join(table.columns)
        raise DataError(f"{path}: needs columns image and target, files of both; it has: {listed}")
    for row in table.rows:
        files = [locate(row.text(column), [path.parent], row.place, formats) for column in (image, target)]
        if None in files:
            column = image if files[0] is None else target
            raise DataError(f"{row.place}: column {column}: there is no file '{row.text(column)}'; correct the path")
        of_split = split_named(row.text(split), row.place) if split else ""
        pairs += _paired(collector, files[0], shown(files[0], path.parent), files[1], formats, of_split)
    if not pairs:
        raise DataError(f"{path}: lists no image; give rows with an image and a target")
    return collector, pairs


def _paired(
    collector: ItemCollector, image: Path, name: str, target: Path, formats: Sequence[Format], split: str
) -> list[TargetPair]:
    """The image as an item, with its target; none where it cannot be read, which is listed."""
    before = len(collector.items)
    collector.add_file(image, name, formats, split=split)
    return [TargetPair(item, target) for item in collector.items[before:]]
