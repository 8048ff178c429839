"""Regions of a map: connected pixels of one class as polygons, with their mean score and area."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....core.errors import CapabilityError, DataError
from ..gdal import INSTALL, NO_NETWORK, writing
from .areas import Ground
from .rasters import NO_SCORE, NOTHING, strip_place, strips_of

LAYER = "regions"


@dataclass(frozen=True)
class Regions:
    """The regions of a map.

    Args:
        shapes: N shapely polygons in the raster's coordinates.
        classes: (N,) class of each, from 0.
        scores: (N,) mean score of its pixels, 0..1.
        areas: (N,) in square metres or pixels.
    """

    shapes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    areas: np.ndarray


def map_regions(classes_file: Path, scores_file: Path, ground: Ground) -> Regions:
    """The regions of a map; pixels belong together that share a side. Memory is that of their outlines.

    Raises:
        DataError: the map cannot be read.
    """
    import rasterio
    import shapely
    from rasterio.features import shapes

    polygons, classes = [], []
    with writing(classes_file.parent), rasterio.open(classes_file, driver="GTiff") as of_class:
        for geometry, value in shapes(rasterio.band(of_class, 1), connectivity=4, transform=of_class.transform):
            if int(value) != NOTHING:
                shell, *holes = geometry["coordinates"]
                polygons.append(shapely.Polygon(shell, holes))
                classes.append(int(value) - 1)
        transform = of_class.transform
    made = np.array(polygons, dtype=object)
    scores = _mean_scores(made, scores_file, transform)
    return Regions(made, np.array(classes, np.int64), scores, ground.of_shapes(made) if polygons else np.zeros(0))


def write_regions(regions: Regions, class_names: Sequence[str], ground: Ground, file: Path) -> None:
    """Write regions as a GeoPackage in the raster's CRS, or as GeoJSON in WGS 84 (RFC 7946), as the suffix says.

    Columns are class, score and area, which is called area_m2, or pixels without a CRS.

    Raises:
        DataError: nothing can be written there. CapabilityError: a package is not installed.
    """
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise CapabilityError(INSTALL.replace("rasters need rasterio", "regions need pyogrio")) from error
    pyogrio.set_gdal_config_options({key: value for key, value in NO_NETWORK.items() if key != "GDAL_CACHEMAX"})
    json = file.suffix.lower() == ".geojson"
    columns = {
        "class": np.array([class_names[index] for index in regions.classes], dtype=object),
        "score": np.round(regions.scores, 4),
        "area_m2" if ground.in_metres else "pixels": np.round(regions.areas, 2),
    }
    try:
        with writing(file.parent), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")  # said already, where there is none
            pyogrio.raw.write(
                file,
                shapely.to_wkb(regions.shapes),
                field_data=list(columns.values()),
                fields=list(columns),
                geometry_type="Polygon",
                crs=ground.header.crs or None,
                driver="GeoJSON" if json else "GPKG",
                layer=LAYER,
                layer_options={"RFC7946": "YES"} if json else {},
            )
    except pyogrio.errors.DataSourceError as error:
        raise DataError.unwritable(file.parent, error) from None


def _mean_scores(shapes: np.ndarray, scores_file: Path, transform) -> np.ndarray:
    """(N,) mean of the scores of each region's pixels, strip by strip."""
    import shapely
    from rasterio.features import rasterize

    sums, counts = np.zeros(len(shapes) + 1), np.zeros(len(shapes) + 1)
    tree = shapely.STRtree(shapes)
    for top, (of_score,) in strips_of([scores_file]):
        here, outline = strip_place(transform, top, of_score.shape)
        near = tree.query(outline)
        if len(near):
            burnt = rasterize(
                zip(shapes[near], near + 1), out_shape=of_score.shape, transform=here, dtype="int32"
            ).ravel()
            burnt[of_score.ravel() == NO_SCORE] = 0
            sums += np.bincount(burnt, of_score.ravel(), len(sums))
            counts += np.bincount(burnt, minlength=len(sums))
    return sums[1:] / np.maximum(counts[1:], 1) / 100
