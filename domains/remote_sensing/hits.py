"""Windows of rasters that a search is asked by, and those that it found, as polygons of a GeoPackage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import DomainData, Item
from ...core.data import read_unlabelled
from ...core.errors import DataError, shortened
from ...core.runtime import replacing
from .band_statistics import with_stretch
from .pictures import is_raster
from .places import PicturePlace, files_of_item, item_place
from .rasters import Header, header_of
from .windows import Box, window_item

NUMBER = r"[-+]?\d+(?:\.\d+)?"
WINDOW = re.compile(rf"^(?P<file>.+?)(?::(?P<pixels>\d+(?:,\d+){{3}})|@(?P<bounds>{NUMBER}(?:,{NUMBER}){{3}}))$")
"""FILE:left,top,width,height in pixels, or FILE@left,bottom,right,top in the coordinates of the raster."""


def read_window(path: str | Path, reading: Any) -> DomainData | None:
    """A picture that a search is asked by, or the window of a raster that its name ends with; None for a picture that
    is read as new ones are.

    Args:
        reading: options of the reader.

    Raises:
        DataError: the window does not lie in the raster, or nothing says where the raster lies.
    """
    match = None if Path(path).exists() else WINDOW.match(str(path))
    if match is None and not (reading.window_sides or reading.cut or reading.labels):
        return None
    data = with_stretch(read_unlabelled([path if match is None else match["file"]], reading.formats), reading.stretch)
    if match is None or len(data.items) != 1:
        return data
    (item,) = data.items
    if not is_raster(item.source):
        raise DataError(f"--image {path}: {item.source.name} is no raster, so it has no windows; give an image alone")
    header = header_of(files_of_item(item), item.decode.get("sensor"))
    return data.with_items([window_item(item, _box(match, header, item))])


def _box(match: re.Match[str], header: Header, item: Item) -> Box:
    """The window in pixels.

    Raises:
        DataError: it does not lie in the raster.
    """
    reach = f"{header.width} x {header.height} pixels"
    if match["pixels"]:
        left, top, width, height = map(int, match["pixels"].split(","))
    else:
        if header.transform is None:
            raise DataError(f"{item.source}: nothing says where it lies; give the window in pixels, FILE:left,top,w,h")
        a, b, c, d, e, f = header.transform
        west, south, east, north = map(float, match["bounds"].split(","))
        corners = np.array([[west, north], [east, north], [east, south], [west, south]]) - (c, f)
        columns, rows = np.linalg.inv(np.array([[a, b], [d, e]])) @ corners.T
        left, top = int(np.floor(columns.min() + 1e-6)), int(np.floor(rows.min() + 1e-6))
        width, height = int(np.ceil(columns.max() - 1e-6)) - left, int(np.ceil(rows.max() - 1e-6)) - top
        (x0, y0), (x1, y1) = header.corners.min(axis=0), header.corners.max(axis=0)
        reach = f"left,bottom,right,top {x0:.10g},{y0:.10g},{x1:.10g},{y1:.10g}"
    if min(left, top) < 0 or min(width, height) < 1 or left + width > header.width or top + height > header.height:
        raise DataError(f"{match.string}: the window does not lie in {item.source.name}, which has {reach}; correct it")
    return left, top, width, height


def write_hits(items: Sequence[Item], scores: Sequence[float], file: Path) -> list[str]:
    """The land of each result as a polygon with rank, score, source and window; one layer per CRS, in that CRS, so that
    no polygon is bent.

    Args:
        items: the best first.

    Returns:
        Sentences for the user.

    Raises:
        DataError: nothing says where any of them lies, or nothing can be written there.
    """
    placed = []
    for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
        place = item_place(item) if is_raster(item.source) else None
        if place is not None and place.transform is not None:
            placed.append((rank, score, item, place))
    if items and not placed:
        raise DataError(f"--out {file}: nothing says where the results lie; give a .csv or .jsonl file")
    systems = list(dict.fromkeys(place.crs for *_, place in placed))
    try:
        with replacing(file) as partial:
            for number, crs in enumerate(systems):
                name = "hits" if len(systems) == 1 else f"hits {_short_name(crs)}"
                _write_layer([each for each in placed if each[-1].crs == crs], name, crs, partial, number > 0)
    except DataError:
        raise
    except Exception as error:  # pyogrio's errors have no common base
        raise DataError(f"--out {file}: cannot be written ({shortened(str(error))}); give another file") from None
    notes = []
    if len(systems) > 1:
        notes.append(f"{file.name} has one layer for each of {len(systems)} coordinate reference systems.")
    if elsewhere := len(items) - len(placed):
        notes.append(f"Results of which nothing says where they lie, not in {file.name}: {elsewhere}.")
    return notes


def _write_layer(
    hits: Sequence[tuple[int, float, Item, PicturePlace]], name: str, crs: str, file: Path, append: bool
) -> None:
    import pyogrio
    import shapely

    columns: dict[str, np.ndarray] = {
        "rank": np.array([rank for rank, *_ in hits], np.int32),
        "score": np.array([score for _, score, *_ in hits], np.float64),
        "source": np.array([str(item.source) for _, _, item, _ in hits], object),
        "window": np.array([",".join(map(str, item.decode.get("window") or ())) for _, _, item, _ in hits], object),
    }
    shapes = np.array([shapely.Polygon(place.corners) for *_, place in hits], object)
    pyogrio.raw.write(
        file,
        geometry=shapely.to_wkb(shapes),
        field_data=list(columns.values()),
        fields=list(columns),
        layer=name,
        driver="GPKG",
        geometry_type="Polygon",
        crs=crs or None,
        append=append,
    )


def _short_name(crs: str) -> str:
    """ "EPSG:32633", or what a CRS without a number is called."""
    from rasterio.crs import CRS

    if not crs:
        return "without CRS"
    parsed = CRS.from_wkt(crs)
    code = parsed.to_epsg()
    return f"EPSG:{code}" if code else shortened(crs.partition('"')[2].partition('"')[0], 40)
