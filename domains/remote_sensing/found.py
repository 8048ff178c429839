"""What was found in rasters, in their own coordinates: boxes as a GeoPackage, masks as GeoTIFFs of classes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import DomainData, Item
from ...core.errors import DataError, shortened
from ...core.runtime import replacing
from .bands import band_pictures
from .gdal import safely
from .maps.rasters import colours
from .objects import decoded_mask
from .pictures import is_raster
from .places import PicturePlace, files_of_item, item_place
from .rasters import coordinates, header_of

BOXES, MAPS = "found.gpkg", "maps"
NOTHING = 255


def write_found(
    rows: Sequence[Mapping[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path
) -> list[Path]:
    """Files of what lies somewhere; nothing for pictures that lie nowhere.

    Args:
        rows: of the task: `id` of an item or of the picture whose windows were joined, and `boxes`, `scores` and
            `labels`, or `masks` by class name.

    Raises:
        DataError: nothing can be written there.
    """
    whole = {name: item for item in data.items for name in (item.id, item.id.rpartition("#")[0]) if name}
    placed = []
    for row in rows:
        item = whole.get(row["id"])
        if item is None or not is_raster(item.source):
            continue
        if item.id != row["id"]:
            item = item.with_(decode={key: value for key, value in item.decode.items() if key != "window"})
        place = item_place(item)
        if place.transform is not None:
            placed.append((row, item, place))
    files = _boxes([(row, place) for row, _, place in placed if "boxes" in row], folder)
    classes = [(row, item, place) for row, item, place in placed if "boxes" not in row and "masks" in row]
    return files + [_map(*each, class_names, folder) for each in classes]


def _boxes(placed: list[tuple[Mapping[str, Any], PicturePlace]], folder: Path) -> list[Path]:
    """One GeoPackage with a layer per CRS."""
    if not placed:
        return []
    import pyogrio
    import shapely

    file = folder / BOXES
    try:
        file.unlink(missing_ok=True)
        for number, crs in enumerate(dict.fromkeys(place.crs for _, place in placed), start=1):
            some = [(row, place) for row, place in placed if place.crs == crs]
            shapes = [shapely.Polygon(_corners(box, place)) for row, place in some for box in row["boxes"]]
            columns = {
                "picture": [row["id"] for row, _ in some for _ in row["boxes"]],
                "label": [label for row, _ in some for label in row["labels"]],
                "score": [score for row, _ in some for score in row["scores"]],
            }
            pyogrio.raw.write(
                file,
                geometry=shapely.to_wkb(np.array(shapes, dtype=object)),
                field_data=[np.array(values, float if name == "score" else object) for name, values in columns.items()],
                fields=list(columns),
                layer="found" if number == 1 else f"found {number}",
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs or None,
                append=number > 1,
            )
    except DataError:
        raise
    except Exception as error:  # pyogrio's errors have no common base
        raise DataError(f"{file}: cannot be written ({shortened(str(error))}); give another --out") from None
    return [file]


def _corners(box: Sequence[float], place: PicturePlace) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = box
    return [coordinates(place.transform, x, y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]


def _map(row: Mapping[str, Any], item: Item, place: PicturePlace, class_names: Sequence[str], folder: Path) -> Path:
    """A GeoTIFF of class indices, whose names are in its tags."""
    height, width = place.size
    deep = np.uint8 if len(class_names) <= NOTHING else np.uint16
    classes = np.full((height, width), np.iinfo(deep).max, deep)
    for label, name in enumerate(class_names):
        if name in row["masks"]:
            classes[decoded_mask(row["masks"][name])] = label
    file = folder / MAPS / f"{Path(row['id']).stem}.tif"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial, safely([file]):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.transform import Affine

        profile = {"count": 1, "dtype": classes.dtype, "height": height, "width": width, "tiled": True}
        where = {"crs": place.crs or None, "transform": Affine(*place.transform)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                partial, "w", driver="GTiff", compress="deflate", nodata=int(np.iinfo(deep).max), **profile, **where
            ) as raster:
                raster.write(classes, 1)
                raster.set_band_description(1, "class")
                if deep is np.uint8:
                    raster.write_colormap(1, {NOTHING: (0, 0, 0, 0), **dict(enumerate(colours(len(class_names))))})
                names = {f"class_{label}": name for label, name in enumerate(class_names)}
                raster.update_tags(**names, **_read_by(item))
    return file


def _read_by(item: Item) -> dict[str, str]:
    """Tags that say which bands of a raster a model saw: their names, scale and offset of physical values, and the
    ranges of these that it saw as 0 to 1."""
    header = header_of(files_of_item(item), item.decode.get("sensor"))
    pictures = band_pictures(item.decode.get("bands"), header.names, str(item.source), header.alpha)
    bands = [band for picture in pictures for channel in picture for band in channel.bands]
    named = [header.names[band][-1] if header.names[band] else str(band + 1) for band in bands]
    scales, offsets = ([side[band] for band in bands] for side in (header.scaling.scales, header.scaling.offsets))
    tags: dict[str, Any] = {"bands": named, "scales": scales, "offsets": offsets}
    stretch = item.decode.get("stretch")
    tags |= {} if stretch is None else {"stretch": [stretch] if isinstance(stretch, str) else stretch}
    return {key: ",".join(v if isinstance(v, str) else f"{v:g}" for v in values) for key, values in tags.items()}
