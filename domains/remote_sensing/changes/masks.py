"""Masks of change: what their numbers mean, told from all masks of the training, and the mask of a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....core.contracts import Item
from ....core.data import remember_by_file
from ....core.errors import DataError
from ..layers import Shapes, read_layer
from ..pictures import is_raster
from ..places import files_of_item
from ..rasters import header_of, open_raster
from ..windows import Box
from .pairs import DatePair, check_place, unit_pair, window_box
from .target import CHANGED, IGNORED, UNCHANGED, ChangeMask

ROWS_AT_ONCE = 1024
LISTED = 5
LAYERS = (".gpkg", ".geojson", ".json", ".shp")
"""Suffixes of layers of polygons."""
WHOLE_MASKS, LAYERS_AT_ONCE = 4, 2
"""Masks in image files, and layers, that stay in memory while their windows are read."""


def with_mask_values(pairs: Sequence[DatePair]) -> tuple[list[DatePair], list[str]]:
    """Pairs whose masks say which of their numbers is change, and a note on it.

    0 is no change, and the other number of the masks is change. 255 beside 0 and another number is ignored; beside 0
    alone it is the change, as in LEVIR-CD. The masks of the test split are not asked.

    Raises:
        DataError: a mask of more than two classes, or masks without any change.
    """
    numbered = [pair for pair in pairs if pair.mask is not None and not pair.values and not is_layer(pair.mask)]
    if not numbered:
        return list(pairs), []
    read = {pair.name: mask_values(pair.mask_file) for pair in numbered}
    training = {name: read[name] for name in (pair.name for pair in numbered if pair.split != "test")} or read
    changes = sorted({value for values in training.values() for value in values} - {UNCHANGED})
    change = changes[0] if changes else CHANGED
    if not changes:
        raise DataError(f"{numbered[0].mask} and all other masks: have no number but 0, no change; label some change")
    classes = {UNCHANGED, change, IGNORED}
    for pair in numbered:
        if other := sorted(set(read[pair.name]) - classes):
            listed = ", ".join(str(value) for value in read[pair.name][:LISTED])
            raise DataError(
                f"{pair.mask}: a mask of more than two classes ({listed}; {other[0]} is neither 0, no change, nor "
                f"{change}, change); give a mask of two"
            )
    beside = f", and {IGNORED} is ignored" if change != IGNORED and IGNORED in changes else ""
    note = f"In the masks {UNCHANGED} is no change and {change} is change{beside}."
    values = UNCHANGED, change
    return [replace(pair, values=values) if pair.name in read else pair for pair in pairs], [note]


def check_mask(pair: DatePair) -> None:
    """Raise the DataError of a mask that does not lie on the grid of its pair, or of polygons elsewhere."""
    file = pair.mask_file
    if is_layer(file):
        _on_grid(file, tuple(files_of_item(pair.before)), pair.before.decode.get("sensor"))
        return
    height, width = pair.size
    high, wide = _size(file)
    if (high, wide) != (height, width):
        raise DataError(
            f"{file}: a mask of {wide} x {high} pixels for dates of {width} x {height} ({pair.before.source}); bring "
            "it to their grid"
        )
    if is_raster(file) and is_raster(pair.before.source):
        of_mask = header_of([file])
        if of_mask.crs:
            check_place(pair.before.source, header_of(files_of_item(pair.before)), file, of_mask)


def is_layer(file: Path) -> bool:
    """Whether a file holds polygons."""
    return file.suffix.lower() in LAYERS


def load_change(item: Item) -> np.ndarray:
    """(H, W) uint8: 0 no change, 1 change, 255 ignored."""
    target = item.target
    assert isinstance(target, ChangeMask)
    box = window_box(item)
    if is_layer(target.file):
        return _drawn(target.file, item, box)
    stored, there = _read(target.file, box)
    unchanged, changed = target.values
    mask = np.full(stored.shape, IGNORED, np.uint8)
    mask[there & (stored == unchanged)] = UNCHANGED
    mask[there & (stored == changed)] = CHANGED
    return mask


def masked_pair(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """(2, C, H, W) float32 in 0..1, both dates; (H, W) uint8 the mask, which is ignored where a date has no value."""
    pixels, valid = unit_pair(item)
    return pixels, np.where(valid, load_change(item), IGNORED).astype(np.uint8)


def classes_in(mask: np.ndarray) -> tuple[int, ...]:
    """Which classes a mask has."""
    return tuple(label for label in (UNCHANGED, CHANGED) if (mask == label).any())


@remember_by_file(100_000)
def mask_values(file: Path) -> tuple[int, ...]:
    """The numbers that a mask has, without its nodata; read some rows at a time."""
    height, width = _size(file)
    values: set[int] = set()
    if not is_raster(file):
        return tuple(np.unique(_whole(file)).tolist())
    for top in range(0, height, ROWS_AT_ONCE):
        stored, there = _read(file, (0, top, width, min(ROWS_AT_ONCE, height - top)))
        values.update(np.unique(stored[there]).tolist())
        if len(values) > IGNORED:
            break
    return tuple(sorted(values))


def _size(file: Path) -> tuple[int, int]:
    """(height, width)."""
    if is_raster(file):
        header = header_of([file])
        return header.height, header.width
    height, width = _whole(file).shape
    return height, width


def _read(file: Path, box: Box | None) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) whole numbers, and where there are any."""
    if is_raster(file):
        with open_raster([file], classes=True) as raster:
            if np.dtype(raster.header.kinds[0]).kind not in "iu" or len(raster.header.kinds) != 1:
                raise DataError(f"{file}: a mask of change must have one band of whole numbers; convert it")
            stored, there = raster.read([0], box)
        return stored[0].astype(np.int64), there
    whole = _whole(file)
    left, top, width, height = box or (0, 0, whole.shape[1], whole.shape[0])
    part = whole[top : top + height, left : left + width]
    return part, np.ones(part.shape, bool)


@remember_by_file(WHOLE_MASKS)
def _whole(file: Path) -> np.ndarray:
    """The numbers of a mask in an image file; colours count where they are grey."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > Item.MAX_PIXELS:
                raise DataError(f"{file}: a mask of {image.width} x {image.height} pixels; give it as a GeoTIFF")
            pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as a mask ({error}); give a PNG or a GeoTIFF") from None
    if pixels.ndim == 3:
        colours = pixels[..., :3]
        if not (colours == colours[..., :1]).all():
            raise DataError(f"{file}: a mask in colours; give one of grey values, 0 where nothing changed")
        pixels = colours[..., 0]
    if pixels.dtype.kind not in "iu":
        raise DataError(f"{file}: a mask of change must have whole numbers; convert it")
    return pixels


def _drawn(file: Path, item: Item, box: Box | None) -> np.ndarray:
    """Polygons drawn on the grid of a window: a pixel is changed whose centre lies in one."""
    import shapely
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    header = header_of(files_of_item(item), item.decode.get("sensor"))
    left, top, width, height = box or (0, 0, header.width, header.height)
    shapes, tree = _on_grid(file, tuple(files_of_item(item)), item.decode.get("sensor"))
    window = shapely.box(left, top, left + width, top + height)
    near = np.sort(tree.query(window, predicate="intersects"))
    mask = np.zeros((height, width), np.uint8)
    if len(near):
        shift = Affine.translation(left, top)
        rasterize([(shapes[k], CHANGED) for k in near], out=mask, transform=shift)
    return mask


@remember_by_file(LAYERS_AT_ONCE)
def _on_grid(file: Path, files: tuple[Path, ...], sensor: str | None) -> tuple[np.ndarray, Any]:
    """Polygons in pixels of a raster, and their tree."""
    import shapely

    layer, header = read_layer(file, None, None, one_class=True), header_of(files, sensor)
    assert isinstance(layer, Shapes)
    shapes = layer.on(header, files[0])
    if (shapely.get_dimensions(shapes) < 2).any():
        raise DataError(f"{file}: has points or lines, which have no extent; give polygons of changed land")
    assert header.transform is not None
    a, b, c, d, e, f = header.transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    shapes = shapely.transform(shapes, lambda xy: (xy - (c, f)) @ inverse.T)
    if not shapely.intersects(shapely.box(0, 0, header.width, header.height), shapes).any():
        raise DataError(f"{file}: none of its polygons lies on {files[0]}; give the layer of that place")
    return shapes, shapely.STRtree(shapes)
