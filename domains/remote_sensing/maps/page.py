"""A map over its raster as one page that needs nothing beside it: pan, zoom, legend, transparency."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Item
from ....core.runs import page_template
from ....core.runtime import write_whole
from ..gdal import writing
from ..pictures import BY_IMAGE, picture_of, read_channels
from ..places import files_of_item
from ..rasters import open_raster
from .rasters import colours
from .scores import PIXELS_AT_ONCE, RasterWindows

MOST_SIDE = 2048
"""Pixels of the longer side of the pictures in a page."""
QUALITY = 85


@dataclass(frozen=True)
class Layer:
    """A map on the page.

    Args:
        title: what the raster is called.
        picture, classes: pictures of one size, as data addresses.
        width, height: of these; scale: pixels of the raster to one of theirs.
        legend: (name, colour, share of the map, score) of each class.
        facts: sentences below the map.
        matrix: header and rows of the error matrix; none without a reference.
    """

    title: str
    picture: str
    classes: str
    width: int
    height: int
    scale: int
    legend: Sequence[tuple[str, str, str, str]]
    facts: Sequence[str]
    matrix: Sequence[Sequence[str]] = field(default=())


def layer_of(windows: RasterWindows, classes_file: Path, title: str, **more: Any) -> Layer:
    """A raster and its map at a size that a browser shows.

    Args:
        classes_file: the map.
        more: fields of `Layer` besides.
    """
    height, width = windows.shape
    scale = max(1, math.ceil(max(height, width) / MOST_SIDE))
    size = math.ceil(height / scale), math.ceil(width / scale)
    pictures = _jpeg(_picture(windows, size, scale)), _png(_classes(classes_file, size), len(more["legend"]))
    return Layer(title, *pictures, size[1], size[0], scale, **more)


def write_map_page(path: Path, layers: Sequence[Layer]) -> None:
    """Write the page.

    Raises:
        DataError: the file cannot be written.
    """
    write_whole(path, page_template(Path(__file__).with_name("page.html.j2")).render(layers=layers))


def hex_colours(count: int) -> list[str]:
    """Of each class, "#rrggbb"."""
    return ["#{:02x}{:02x}{:02x}".format(*shade[:3]) for shade in colours(count)]


def _picture(windows: RasterWindows, size: tuple[int, int], scale: int) -> np.ndarray:
    """(h, w, 3) uint8, read some rows at a time; of several pictures the first."""
    item, (height, width) = windows.item, windows.shape
    rows = max(1, PIXELS_AT_ONCE // (width * scale))
    parts, valid = [], []
    with open_raster(files_of_item(item), item.decode.get("sensor")) as raster:
        for top in range(0, size[0], rows):
            bottom = min(top + rows, size[0])
            window = (0, top * scale, width, min(bottom * scale, height) - top * scale)
            raster.check_size((window[3], width), None, int(item.decode.get("max_pixels", Item.MAX_PIXELS)))
            sized = bottom - top, size[1]
            values, there, pictures, eight_bits = read_channels(raster, item.source, item.decode, window, sized)
            parts.append(values)
            valid.append(there)
    values, there = np.concatenate(parts, axis=1), np.concatenate(valid)
    shown = picture_of(values, there, pictures, eight_bits, item.decode.get("stretch", BY_IMAGE), item.source)
    first = shown[0] if shown.ndim == 4 else shown
    return first if first.dtype == np.uint8 else np.rint(255 * first).astype(np.uint8)


def _classes(file: Path, size: tuple[int, int]) -> np.ndarray:
    import rasterio

    with writing(file.parent), rasterio.open(file, driver="GTiff") as of_class:
        return of_class.read(1, out_shape=size)


def _jpeg(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return _address("image/jpeg", buffer)


def _png(classes: np.ndarray, count: int) -> str:
    from PIL import Image

    image = Image.fromarray(classes, "P")
    image.putpalette([value for shade in [(0, 0, 0), *(c[:3] for c in colours(count))] for value in shade])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0, optimize=True)
    return _address("image/png", buffer)


def _address(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
