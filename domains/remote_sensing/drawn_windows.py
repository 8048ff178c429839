"""Training windows of a large raster drawn anew in each epoch, in place of those of a grid.

`random`: a window anywhere on the land that trains, each place equally likely, as torchgeo's RandomGeoSampler draws
("TorchGeo: Deep Learning With Geospatial Data", 2021, arXiv 2111.08872; its GridGeoSampler is the grid). `balanced`:
first a class, each equally likely, then a place of it in proportion to its area (for detection a box of it, each
equally likely), then a window around that place; a rare class is seen as often as a frequent one.

A draw is a function of the seed, the epoch and the row alone. A window lies wholly inside a block of land that trains,
so no window shares land with val or test, which stay on the grid. What the label layer says of a window is read when
the window is drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Boxes, DomainData, Item, Label, Mask, Target
from ...core.errors import ConfigError, DataError
from .layers import ClassRaster, Shapes, read_layer
from .objects import DETECTION, SEGMENTATION, decoded_mask, ignored_without_values, objects_in
from .pictures import valid_pixels
from .places import files_of_item
from .rasters import Header, header_of, raster_corners
from .windows import GRID, Box, Cutting, class_of_window, window_item

RANDOM, BALANCED = "random", "balanced"
WAYS = (GRID, RANDOM, BALANCED)
TRIES = 20
"""Draws of a window that the layer says nothing of, or that has no value, before that of the grid is taken."""
BACKGROUND = "background"


def with_draws(data: DomainData, layer: Shapes | ClassRaster, reading: Any) -> DomainData:
    """A set of windows, of which those that train are to be drawn anew.

    Args:
        data: windows on a grid inside blocks of land (`window_in`), labelled by the layer.
        reading: options of the reader: how windows were cut and are drawn, and what names their classes.

    Raises:
        ConfigError: there are no blocks. DataError: the layer has points, around which windows lie.
    """
    how, cutting = reading.draw_windows, reading.cutting
    if how == GRID:
        return data
    if not data.blocks:
        raise ConfigError(
            f"--draw-windows {how}: without blocks of land drawn windows would show what is tested; omit --block-size"
        )
    if isinstance(layer, Shapes):
        import shapely

        if (shapely.get_dimensions(layer.geometries) == 0).any():
            raise DataError(f"{layer.path}: has points, around which windows lie; omit --draw-windows {how}")
    spec = {
        Item.READ_BY: "remote-sensing",
        "how": how,
        "layer": str(layer.path.absolute()),
        "column": reading.label_column,
        "values": None if isinstance(layer, Shapes) else list(layer.values),
        "classes": list(layer.names),
        "names": list(data.class_names),
        "share": cutting.share,
        "shift": int(reading.background and BACKGROUND not in layer.names),
    }
    items = [item.with_(draw={**spec, **item.draw}) for item in data.items]
    note = f"Training windows are drawn anew in each epoch ({how}, --draw-windows); val and test stay on the grid."
    return replace(data, items=items, notes=[*data.notes, note])


class WindowDrawer:
    """See `Domain.drawer`.

    Args:
        items: with `draw`, as `with_draws` makes them.
        class_names: what the targets of `items` are numbers of.

    Raises:
        ConfigError: none of these classes is one of the layer's.
    """

    def __init__(self, items: Sequence[Item], class_names: Sequence[str]):
        self.items = list(items)
        spec = next(item.draw for item in self.items if item.draw)
        self._new = _renumbered(spec["names"], class_names)
        places = _Places.of(self.items, self._new) if spec["how"] == BALANCED else None
        self._balanced = places if places and places.classes else None

    def __call__(self, row: int, seed: int) -> Item:
        """The sample that is seen in the place of a row; that row's own where none of `TRIES` draws has a label."""
        own, random = self.items[row], np.random.default_rng(seed)
        if own.draw is None:
            return own
        for _ in range(TRIES):
            base, place = own, None
            if self._balanced is not None:
                base, place = self._balanced.draw(random)
            drawn = window_item(_whole(base), _drawn_box(base, place, random)).with_(group=base.group, split=own.split)
            target = _target_of(drawn, base.target, self._new)
            if target is not None and _has_value(drawn):
                return drawn.with_(target=target)
        return own


def _renumbered(names: Sequence[str], class_names: Sequence[str]) -> dict[int, int]:
    """Number of a class of the layer -> its number among the classes that are learned."""
    new = {number: class_names.index(name) for number, name in enumerate(names) if name in class_names}
    if len(names) == len(class_names) and all(number == place for number, place in new.items()):
        return {number: number for number in range(len(names))}  # some in another language, perhaps
    if not new:
        raise ConfigError(f"classes: none of {', '.join(class_names)} is in the label layer; omit --draw-windows")
    return new


def _whole(item: Item) -> Item:
    """The raster that a window is of."""
    decode = {key: value for key, value in item.decode.items() if key != "window"}
    return item.with_(id=item.id.rpartition("#")[0], decode=decode)


def _drawn_box(item: Item, place: tuple[int, int] | None, random: np.random.Generator) -> Box:
    """A window as large as an item's in its block, around a place (column, row) where one is given."""
    _, _, wide, high = item.decode["window"]
    left, top, width, height = item.draw["block"]
    at = (None, None) if place is None else place
    column = _begin(left, left + width, wide, at[0], random)
    return column, _begin(top, top + height, high, at[1], random), wide, high


def _begin(low: int, high: int, length: int, at: int | None, random: np.random.Generator) -> int:
    """Where a window of some length begins between two lines, so that it has a pixel where one is given."""
    first, last = low, high - length
    if at is not None:
        first, last = max(first, at - length + 1), min(last, at)
    return int(random.integers(first, max(first, last) + 1))


@dataclass(frozen=True)
class _Places:
    """Where each class is: rows of the items that show it, and how much of it they show, summed up."""

    items: Sequence[Item]
    rows: Sequence[np.ndarray]
    ends: Sequence[np.ndarray]
    classes: Sequence[int]

    @classmethod
    def of(cls, items: Sequence[Item], new: Mapping[int, int]) -> _Places:
        """Of classes that are learned."""
        shown: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for row, item in enumerate(items):
            for label, amount in _amounts(item, new).items():
                shown[label].append((row, amount))
        rows = [np.array([row for row, _ in shown[label]]) for label in shown]
        ends = [np.cumsum([amount for _, amount in shown[label]]) for label in shown]
        return cls(items, rows, ends, list(shown))

    def draw(self, random: np.random.Generator) -> tuple[Item, tuple[int, int]]:
        """A window of the grid, and the (column, row) of a pixel of a class in it."""
        k = int(random.integers(len(self.classes)))
        at = np.searchsorted(self.ends[k], random.random() * self.ends[k][-1], side="right")
        item = self.items[self.rows[k][min(at, len(self.rows[k]) - 1)]]
        x, y = _pixel_of(item, self.classes[k], random)
        left, top, _, _ = item.decode["window"]
        return item, (left + x, top + y)


def _amounts(item: Item, new: Mapping[int, int]) -> dict[int, float]:
    """How much of each class a window of the grid shows: pixels of masks, boxes, or the window itself."""
    target = item.target
    if isinstance(target, Label):
        return {target.index: 1.0}
    amounts: dict[int, float] = defaultdict(float)
    if isinstance(target, Boxes):
        for label, ignored in zip(target.labels, target.ignored or (False,) * len(target.labels)):
            amounts[label] += not ignored
        return {label: amount for label, amount in amounts.items() if amount}
    area = target.size[0] * target.size[1]
    for label, outline in zip(target.outlines.labels, target.outlines.segments or ()):
        covered = float(decoded_mask(outline).sum())
        area -= covered
        if label in new:
            amounts[label] += covered
    if item.draw["shift"] and 0 in new and area > 0:
        amounts[0] = area
    return dict(amounts)


def _pixel_of(item: Item, label: int, random: np.random.Generator) -> tuple[int, int]:
    """(column, row) in a window of a pixel of a class that it shows."""
    _, _, wide, high = item.decode["window"]
    anywhere = int(random.integers(wide)), int(random.integers(high))
    target = item.target
    if isinstance(target, Label):
        return anywhere
    objects = target.outlines if isinstance(target, Mask) else target
    of_class = [k for k, each in enumerate(objects.labels) if each == label]
    if not of_class:  # the background
        return anywhere
    k = of_class[int(random.integers(len(of_class)))]
    if isinstance(target, Boxes):  # its extent here
        x0, y0, x1, y1 = objects.boxes[k]
        return int(random.uniform(x0, x1)), int(random.uniform(y0, y1))
    rows, columns = np.nonzero(decoded_mask(objects.segments[k]))
    chosen = int(random.integers(len(rows)))
    return int(columns[chosen]), int(rows[chosen])


def _target_of(item: Item, like: Target | None, new: Mapping[int, int]) -> Target | None:
    """What the layer says of a drawn window, of the type of another window's target; None where it says nothing."""
    spec, box = item.draw, tuple(item.decode["window"])
    layer = _layer(spec["layer"], spec["column"], tuple(spec["values"] or ()), tuple(spec["classes"]))
    header = header_of(files_of_item(item), item.decode.get("sensor"))
    cutting = Cutting(max(box[2:]), share=spec["share"])
    if isinstance(layer, Shapes):
        layer = _near(layer, spec["column"], header, item.source, box)
        if layer is None:
            return None
    if isinstance(like, Label):
        number = class_of_window(layer, header, box, cutting)
        return None if number not in new else Label(new[number])
    task = SEGMENTATION if isinstance(like, Mask) else DETECTION
    boxes = objects_in(layer, item, header, box, cutting, task)
    if boxes is None:
        return None
    if isinstance(like, Mask):
        numbered = replace(boxes, labels=tuple(label + spec["shift"] for label in boxes.labels))
        return replace(like, outlines=numbered, size=boxes.size, labels=None)
    valid = valid_pixels(item.source, item.decode)
    boxes = boxes.restricted(new)
    return boxes if valid is None else ignored_without_values(boxes, valid)


@lru_cache(maxsize=4)
def _layer(path: str, column: str | None, values: tuple[int, ...], classes: tuple[str, ...]) -> Shapes | ClassRaster:
    return ClassRaster(Path(path), values, classes) if values else read_layer(Path(path), column, classes)


def _near(layer: Shapes, column: str | None, header: Header, raster: Path, box: Box) -> Shapes | None:
    """The shapes that touch a window, in the coordinates of its raster; None outside all that the layer covers."""
    import shapely

    shapes, tree, reach = _indexed(layer.path, column, layer.names, header, raster)
    window = shapely.Polygon(raster_corners(header.transform, box))
    if not shapely.intersects(window, reach):
        return None
    near = np.sort(tree.query(window, predicate="intersects"))
    return replace(layer, geometries=shapes[near], classes=layer.classes[near], crs=header.crs, notes=[])


@lru_cache(maxsize=8)
def _indexed(path: Path, column: str | None, names: tuple[str, ...], header: Header, raster: Path):
    """All shapes of a layer in the coordinates of a raster, a tree of them, and the box around them."""
    import shapely

    shapes = _layer(str(path), column, (), names).on(header, raster)
    return shapes, shapely.STRtree(shapes), shapely.box(*shapely.total_bounds(shapes))


def _has_value(item: Item) -> bool:
    """Whether some pixel of a window has a value in all the bands that are read."""
    valid = valid_pixels(item.source, item.decode)
    return valid is None or bool(valid.any())
