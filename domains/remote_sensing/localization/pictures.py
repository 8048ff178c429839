"""Pictures that a sentence is looked for in: their size, their windows as items, and the file of the map."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....core.contracts import Item
from ....core.errors import DataError
from ..gdal import safely
from ..pictures import is_raster
from ..places import files_of_item
from ..rasters import header_of
from .heat import SentenceHeatMap, TooSmall, windows_of

GEOTIFF = (".tif", ".tiff")
MAP_FILES = (*GEOTIFF, ".png")


def picture_size(item: Item) -> tuple[int, int]:
    """(height, width) of a whole picture, upright.

    Raises:
        DataError: it cannot be read.
    """
    if is_raster(item.source):
        header = header_of(files_of_item(item), item.decode.get("sensor"))
        return header.height, header.width
    from ....core.data import IMAGE

    return IMAGE.load(item.source, _whole(item.decode)).shape[:2]


def window_items(item: Item, sides: Sequence[int]) -> list[Item]:
    """The windows of a picture, as items that are decoded one by one; see `windows_of`.

    Raises:
        DataError: it cannot be read, or is smaller than each side.
    """
    try:
        return [_window(item, box) for box in windows_of(*picture_size(item), sides)]
    except TooSmall as error:
        raise DataError(f"{item.source}: {error}") from None


def item_window(decode: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """First row, end row, first column and end column of an item's window; None of a whole picture."""
    if "window" in decode:
        left, top, width, height = decode["window"]
        return top, top + height, left, left + width
    if "box" in decode:
        left, top, right, bottom = decode["box"]
        return top, bottom, left, right
    return None


def whole_picture(item: Item) -> Item:
    """The picture that a window is of."""
    return item.with_(decode=_whole(item.decode))


def write_map(heat: SentenceHeatMap, item: Item, text: str, out: Path) -> None:
    """The map as a file of one band of 8 bits: a GeoTIFF in the coordinates of the picture, or a PNG.

    A GeoTIFF is written some rows at a time, and says where no window lies.

    Raises:
        DataError: nothing can be written there.
    """
    from ....core.runtime import replacing

    with replacing(out) as partial:
        if out.suffix.lower() in GEOTIFF:
            _write_geotiff(heat, item, text, partial)
        else:
            Image.fromarray(heat.whole()).save(partial, "PNG")


def _write_geotiff(heat: SentenceHeatMap, item: Item, text: str, file: Path) -> None:
    with safely([file]):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.transform import Affine

        place = {}
        if is_raster(item.source):
            header = header_of(files_of_item(item), item.decode.get("sensor"))
            if header.transform is not None:
                place = {"crs": header.crs or None, "transform": Affine(*header.transform)}
        height, width = heat.size
        profile = {"count": 1, "dtype": "uint8", "height": height, "width": width, "tiled": True}
        with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                file, "w", driver="GTiff", compress="deflate", BIGTIFF="IF_SAFER", **profile, **place
            ) as raster:
                raster.set_band_description(1, text)
                for top, rows, covered in heat.strips():
                    window = ((top, top + len(rows)), (0, width))
                    raster.write(rows, 1, window=window)
                    if not heat.covered.all():
                        raster.write_mask(covered, window=window)


def _window(item: Item, box: np.ndarray) -> Item:
    top, bottom, left, right = map(int, box)
    if is_raster(item.source):
        part = {"window": [left, top, right - left, bottom - top]}
    else:
        part = {"box": [left, top, right, bottom]}
    return item.with_(id=f"{item.id}#{top}_{left}_{bottom - top}", decode={**item.decode, **part}, apart=True)


def _whole(decode: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in decode.items() if key not in ("window", "box")}


def check_map_file(out: Path) -> None:
    """Refuse a map of an unknown kind.

    Raises:
        DataError: its suffix is none of `MAP_FILES`.
    """
    if out.suffix.lower() not in MAP_FILES:
        raise DataError(f"--out {out}: a map is written as {' or '.join(MAP_FILES)}; give such a file")
