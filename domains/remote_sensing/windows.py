"""Large rasters as windows: cut lazily, on a grid inside blocks of land, labelled by a layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...core.contracts import DomainData, Item, Label, check_items
from ...core.data import ItemCollector, shown, walk
from ...core.errors import DataError
from .layers import ClassRaster, Shapes
from .pictures import is_raster
from .places import WINDOWS_PER_BLOCK, check_every_crs, files_of_item, metres, metres_per_pixel
from .rasters import Header, header_of, raster_corners

GRID = "grid"
"""Windows that stay as they were cut, where others are drawn anew in each epoch."""
MOST_WINDOWS = 2_000_000
T = TypeVar("T")
Box = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""
BlockSide = tuple[float, float]
"""(height, width) of a block in pixels, which is whole for the coarsest raster."""


class LandBlock(NamedTuple):
    """A part of a raster, in pixels, of a block of land that stays on one side of the splits."""

    name: str
    box: Box


@dataclass(frozen=True)
class Cutting:
    """How rasters are cut.

    Args:
        size: side of a window in pixels.
        overlap: share of a window that the next one covers too.
        share: of a window that one class must cover, for the window to have its label.
        block: side of a block in metres; None for ten windows, 0 for no blocks.
    """

    size: int = 224
    overlap: float = 0.25
    share: float = 0.5
    block: float | None = None

    @property
    def stride(self) -> int:
        return max(1, round(self.size * (1 - self.overlap)))


@dataclass(frozen=True)
class _Blocks:
    """(height, width) in pixels of a block of each raster, and "blocks of 2.24 km", or "" for none."""

    sides: list[BlockSide]
    words: str


@dataclass(frozen=True)
class _Cut:
    """A raster, its windows, the block of each, and the label of each or -1."""

    item: Item
    boxes: list[Box]
    blocks: list[LandBlock]
    labels: np.ndarray


def read_windows(path: Path, layer: Shapes | ClassRaster, reading: Any, cutting: Cutting) -> DomainData:
    """Windows of a raster, or of all rasters of a folder, that a label layer says the class of.

    Args:
        path: a raster, or a folder of rasters.
        layer: one inside the folder is no raster to be labelled.
        reading: options of the reader: formats, the class column and names.
        cutting: how rasters are cut.

    Raises:
        DataError: a file cannot be read, the layer lies elsewhere, the area is smaller than two blocks, or no window
            has a class.
    """
    collector = rasters_of(path, layer.path, reading)
    headers = [header_of(files_of_item(item), item.decode.get("sensor")) for item in collector.items]
    blocks = blocks_of_land(path, headers, cutting)
    of_each = zip(collector.items, headers, blocks.sides, strict=True)
    cuts = [_cut(item, header, layer, cutting, sides) for item, header, sides in of_each]
    items, unlabelled = (
        list(_items(cuts, bool(blocks.words), reading.draw_windows != GRID)),
        sum(int((cut.labels < 0).sum()) for cut in cuts),
    )
    if not items:
        raise DataError(
            f"{layer.path}: covers no window of {path.name} by {cutting.share:.0%}; check that it lies in "
            "the same place, or lower --min-share"
        )
    notes = list(layer.notes)
    if blocks.words:
        notes.append(f"Splits are by place: {blocks.words}, each on one side (--block-size).")
    if unlabelled:
        notes.append(f"Windows that no class covers by {cutting.share:.0%}, left out: {unlabelled}.")
    what = {"name": path.resolve().stem, "notes": notes, "blocks": blocks.words}
    data = collector.data_set(path, reading.formats, layer.names, items=items, **what)
    return check_items(data, path)


def class_of_window(layer: Shapes | ClassRaster, header: Header, box: Box, cutting: Cutting) -> int:
    """The class that covers most of one window, -1 where that is too little.

    Args:
        layer: its shapes in the coordinates of the raster.
        header: of the raster.
    """
    if isinstance(layer, Shapes):
        shapes, classes = layer.geometries, layer.classes
        return int(_labels_of_areas(shapes, classes, [box], header, len(layer.names), cutting)[0])
    with layer.over(header) as raster:
        places = layer.places(raster, box)
    counts = np.bincount(places[places >= 0], minlength=len(layer.names))
    return int(_largest(counts[None] / places.size, cutting.share)[0])


def cut_unlabelled(items: Sequence[Item], cutting: Cutting) -> list[Item]:
    """New rasters that are larger than a window, as windows on one grid over all of each."""
    cut = []
    for item in items:
        header = header_of(files_of_item(item), item.decode.get("sensor")) if is_raster(item.source) else None
        if header is None or max(header.height, header.width) <= cutting.size:
            cut.append(item)
            continue
        for box in window_boxes(header.height, header.width, cutting):
            cut.append(window_item(item, box))
    return cut


def window_boxes(height: int, width: int, cutting: Cutting, left: int = 0, top: int = 0) -> list[Box]:
    """Windows that cover an area row by row; the last of each row and column are moved inside."""
    high, wide = min(cutting.size, height), min(cutting.size, width)
    return [
        (left + x, top + y, wide, high)
        for y in starts_of_windows(height, high, cutting.stride)
        for x in starts_of_windows(width, wide, cutting.stride)
    ]


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at a time, the last time the rest; `itertools.batched` from Python 3.12 on."""
    left = iter(values)
    while some := list(islice(left, size)):
        yield some


def starts_of_windows(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin: every `stride`, and one that ends where the length ends."""
    return [*range(0, length - size, stride), length - size]


def grids_of(
    path: Path, headers: Sequence[Header], cutting: Cutting
) -> tuple[list[tuple[list[Box], list[LandBlock]]], str]:
    """Windows on a grid inside each block of land, and the block of each, for several rasters; what blocks are, "" for
    none.

    Raises:
        DataError: as for `read_windows`.
    """
    blocks = blocks_of_land(path, headers, cutting)
    grids = []
    for header, sides in zip(headers, blocks.sides):
        lines = _lines_of(header, sides) if cutting.block != 0 else ([0, header.height], [0, header.width])
        grids.append(_grid(lines, cutting, header, sides))
    return grids, blocks.words


def rasters_of(path: Path, layer_path: Path, reading: Any) -> ItemCollector:
    """A raster, or those of a folder, but for the layer.

    Raises:
        DataError: there is none, or one has a CRS and another none, so that they cannot be divided by place.
    """
    collector, root = ItemCollector(), path if path.is_dir() else path.parent
    files = walk(path, root, collector) if path.is_dir() else [path]
    for file in files:
        if is_raster(file) and file.resolve() != layer_path.resolve():
            collector.add_file(file, shown(file, root), reading.formats)
    if not collector.items:
        why = f" ({collector.skipped[0][0]}: {collector.skipped[0][1]})" if collector.skipped else ""
        raise DataError(f"{path}: holds no raster for {layer_path.name} to lie over{why}; give a folder of rasters")
    if reading.block_size != 0:
        headers = [header_of(files_of_item(item), item.decode.get("sensor")) for item in collector.items]
        check_every_crs(headers, [item.source for item in collector.items])
    return collector


def blocks_of_land(path: Path, headers: Sequence[Header], cutting: Cutting) -> _Blocks:
    """How the land under some rasters is divided.

    Raises:
        DataError: rasters of several CRSs, a block smaller than a window, or less land than two blocks.
    """
    if cutting.block == 0:
        return _Blocks([(header.height, header.width) for header in headers], "")
    ten = WINDOWS_PER_BLOCK * cutting.size
    if not all(header.crs and header.transform for header in headers):
        if cutting.block is not None:
            raise DataError(f"{path}: has no CRS, so --block-size cannot be in metres; omit it for ten windows")
        blocks = _Blocks([(ten, ten)] * len(headers), f"blocks of {ten} pixels, since there is no CRS")
    else:
        blocks = _blocks_on_earth(path, headers, cutting, ten)
    land = sum(header.height * header.width / (high * wide) for header, (high, wide) in zip(headers, blocks.sides))
    if land < 2:
        raise DataError(
            f"{path}: smaller than two {blocks.words}, so that none is left for testing; give a smaller --block-size "
            "or --window-size, or --block-size 0 for random splits"
        )
    return blocks


def _blocks_on_earth(path: Path, headers: Sequence[Header], cutting: Cutting, ten: int) -> _Blocks:
    if len({header.crs for header in headers}) > 1:
        raise DataError(
            f"{path}: its rasters have several CRSs, so that they cannot be divided into blocks; reproject them to "
            "one, or give --block-size 0 for random splits"
        )
    scales = [metres_per_pixel(header) for header in headers]
    size = cutting.block or ten * float(np.median(scales))
    across, along = scales[0]
    # the same in coordinates for all rasters, and whole pixels of the coarsest, so that their lines meet
    wide = _whole(size / across * abs(headers[0].pixel[1]), [header.pixel[1] for header in headers])
    high = _whole(size / along * abs(headers[0].pixel[0]), [header.pixel[0] for header in headers])
    sides = [(high / h.pixel[0], wide / h.pixel[1]) for h in headers]
    if min(map(min, sides)) < cutting.size:
        raise DataError(
            f"{path}: a block of {metres(size)} is smaller than a window of "
            f"{metres(cutting.size * np.median(scales))}; give a larger --block-size"
        )
    return _Blocks(sides, f"blocks of {metres(size)}")


def _whole(length: float, steps: Sequence[float]) -> float:
    """A length rounded to a multiple of the largest step."""
    return max(1, round(length / max(steps))) * max(steps)


def _cut(item: Item, header: Header, layer: Shapes | ClassRaster, cutting: Cutting, block: BlockSide) -> _Cut:
    """The windows of a raster: on a grid inside each block, or around points."""
    lines = _lines_of(header, block) if cutting.block != 0 else ([0, header.height], [0, header.width])
    if isinstance(layer, ClassRaster):
        boxes, blocks = _grid(lines, cutting, header, block)
        covered = layer.counts(item.source, files_of_item(item), boxes)
        return _Cut(item, boxes, blocks, _largest(covered, cutting.share))
    shapes = layer.on(header, item.source)
    import shapely

    points = shapely.get_dimensions(shapes) == 0
    boxes, blocks, labels = _around_points(shapes[points], layer.classes[points], header, lines, cutting, block)
    if not points.all():
        grid, of_grid = _grid(lines, cutting, header, block)
        boxes, blocks = [*boxes, *grid], [*blocks, *of_grid]
        of_areas = _labels_of_areas(shapes[~points], layer.classes[~points], grid, header, len(layer.names), cutting)
        labels = np.concatenate([labels, of_areas])
    return _Cut(item, boxes, blocks, labels)


def _lines_of(header: Header, block: BlockSide) -> tuple[list[int], list[int]]:
    """Rows and columns where blocks begin and the raster ends. Rasters of one CRS share their lines, as far as the
    pixels of each let them."""
    offsets, ends = _from_origin(header), (header.height, header.width)
    rows, columns = (_marks(offset, side, end) for offset, side, end in zip(offsets, block, ends))
    return rows, columns


def _marks(offset: float, side: float, end: int) -> list[int]:
    """0, the multiples of `side` from `offset` pixels before 0 on, and the end."""
    first, last = math.floor(offset / side) + 1, math.ceil((offset + end) / side)
    inside = (round(number * side - offset) for number in range(first, last))
    return [0, *(mark for mark in inside if 0 < mark < end), end]


def _grid(
    lines: tuple[list[int], list[int]], cutting: Cutting, header: Header, block: BlockSide
) -> tuple[list[Box], list[LandBlock]]:
    """Windows on a grid inside each block; slivers of blocks narrower than a window have none."""
    rows, columns = lines
    least = min(cutting.size, header.height), min(cutting.size, header.width)
    boxes: list[Box] = []
    blocks: list[LandBlock] = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            if bottom - top >= least[0] and right - left >= least[1]:
                inside = window_boxes(bottom - top, right - left, cutting, left, top)
                boxes += inside
                around = (left, top, right - left, bottom - top)
                blocks += [LandBlock(_block_name(header, left, top, block), around)] * len(inside)
        if len(boxes) > MOST_WINDOWS:
            raise DataError(f"more than {MOST_WINDOWS:,} windows; give a larger --window-size or a smaller --overlap")
    return boxes, blocks


def _block_name(header: Header, left: int, top: int, block: BlockSide) -> str:
    """Of the block that a pixel lies in: the same in all rasters that share it, also where it begins outside them."""
    (down, right), (high, wide) = _from_origin(header), block
    return f"block {math.floor((top + 0.5 + down) / high)} {math.floor((left + 0.5 + right) / wide)}"


def _from_origin(header: Header) -> tuple[float, float]:
    """Rows and columns from the origin of the coordinates to the raster; 0 where its axes are not those of the map."""
    a, b, c, d, e, f = header.transform or (1, 0, 0, 0, 1, 0)
    return (f / e, c / a) if b == d == 0 and header.crs else (0.0, 0.0)


def _around_points(
    points: np.ndarray,
    classes: np.ndarray,
    header: Header,
    lines: tuple[list[int], list[int]],
    cutting: Cutting,
    block: BlockSide,
) -> tuple[list[Box], list[LandBlock], np.ndarray]:
    """A window around each point, moved inside its block."""
    if not len(points):
        return [], [], np.zeros(0, np.int64)
    import shapely

    xy = shapely.get_coordinates(shapely.centroid(points))
    # Columns and rows of coordinates.
    a, b, c, d, e, f = header.transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    column, row = inverse @ (xy - (c, f)).T
    inside = (column >= 0) & (row >= 0) & (column < header.width) & (row < header.height)
    boxes: list[Box] = []
    blocks: list[LandBlock] = []
    labels: list[int] = []
    for x, y, label in zip(column[inside], row[inside], classes[inside]):
        (first_row, last_row), (first, last) = _around(y, lines[0]), _around(x, lines[1])
        top, high = _moved_inside(y, first_row, last_row, cutting.size)
        left, wide = _moved_inside(x, first, last, cutting.size)
        boxes.append((left, top, wide, high))
        name = _block_name(header, first, first_row, block)
        blocks.append(LandBlock(name, (first, first_row, last - first, last_row - first_row)))
        labels.append(int(label))
    return boxes, blocks, np.array(labels, np.int64)


def _around(at: float, lines: Sequence[int]) -> tuple[int, int]:
    """The lines before and after a place."""
    return next((low, high) for low, high in pairwise(lines) if low <= at < high)


def _moved_inside(at: float, low: int, high: int, size: int) -> tuple[int, int]:
    """Begin and length of a window around a place, inside its block as far as that is as large as a window."""
    length = min(size, high - low)
    return int(min(max(round(at - length / 2), low), high - length)), length


def _labels_of_areas(
    shapes: np.ndarray, classes: np.ndarray, boxes: Sequence[Box], header: Header, count: int, cutting: Cutting
) -> np.ndarray:
    """Of each window the class that covers most of it, -1 where that is too little."""
    import shapely

    windows = shapely.polygons([raster_corners(header.transform, box) for box in boxes])
    pairs = shapely.STRtree(windows).query(shapes, predicate="intersects")  # (2, P): shape, window
    area = shapely.area(shapely.intersection(shapes[pairs[0]], windows[pairs[1]]))
    covered = np.zeros((len(boxes), count))
    np.add.at(covered, (pairs[1], classes[pairs[0]]), area)
    covered /= shapely.area(windows)[:, None]
    return _largest(covered, cutting.share)


def _largest(covered: np.ndarray, share: float) -> np.ndarray:
    """Of (N, C) shares of windows the class with the largest, -1 where that is less than `share`."""
    return np.where(covered.max(axis=1, initial=0) >= share, covered.argmax(axis=1), -1)


def _items(cuts: Sequence[_Cut], grouped: bool, drawn: bool) -> Iterator[Item]:
    for cut in cuts:
        for box, block, label in zip(cut.boxes, cut.blocks, cut.labels):
            if label >= 0:
                window = window_in(cut.item, box, block if grouped else None, drawn)
                yield window.with_(target=Label(int(label)))


def window_in(item: Item, box: Box, block: LandBlock | None, drawn: bool) -> Item:
    """A window of a raster in a block of land.

    Args:
        drawn: others of the same block are to be drawn in its place.
    """
    window = window_item(item, box)
    if block is None:
        return window
    return window.with_(group=block.name, draw={"block": list(block.box)} if drawn else None)


def window_item(item: Item, box: Box) -> Item:
    """The part of a raster, in pixels, as an item."""
    left, top, wide, high = box
    id_ = f"{item.id}#{top}_{left}"
    return item.with_(id=id_, decode={**item.decode, "window": [left, top, wide, high]}, apart=True)
