"""Regions that somebody outlined in a slide: the GeoJSON that QuPath exports, in pixels of the largest level.

QuPath: Open source software for digital pathology image analysis (Bankhead et al., 2017, doi
10.1038/s41598-017-17204-5). It counts from what was scanned where a slide says that this begins elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....core.errors import ConfigError, DataError
from ....core.runtime import read_json
from .reading import Slide

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

ENDING = ".geojson"
CURE = "export it as GeoJSON from QuPath again"


def regions_of(place: Path, slide: Path) -> Path | None:
    """The file that outlines regions of a slide; None where there is none.

    Args:
        place: as the user gave it: a folder of files named SLIDE.geojson, with the slide's ending or without, or one
            such file.
        slide: its file.

    Raises:
        ConfigError: there is no such file or folder.
    """
    names = [slide.stem + ENDING, slide.name + ENDING]
    if place.is_dir():
        return next((file for name in names if (file := place / name).is_file()), None)
    if not place.is_file():
        raise ConfigError(f"--regions {place}: there is no such file or folder; correct the path")
    return place if place.name in names else None


def read_regions(file: Path, slide: Slide, most_beyond: float) -> BaseGeometry:
    """All polygons of a file as one shape, from the slide's upper left corner.

    Args:
        file: a FeatureCollection, a feature, a list of features, or a geometry. Points and lines are passed over.
        slide: that it is of.
        most_beyond: pixels that a region may reach beyond it.

    Raises:
        DataError: it holds no polygon, or one that reaches beyond the slide.
    """
    import shapely
    from shapely.geometry import shape

    shapes = []
    for geometry in _geometries(read_json(file)):
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            continue
        try:
            shapes.append(shapely.make_valid(shape(geometry)))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, shapely.errors.ShapelyError):
            raise DataError(f"{file}: polygon {len(shapes) + 1} cannot be read; {CURE}") from None
    if not shapes:
        raise DataError(f"{file}: has no polygon; {CURE}")
    joined = shapely.transform(shapely.union_all(shapes), lambda points: points + np.array(slide.origin))
    left, top, right, bottom = joined.bounds if not joined.is_empty else (np.nan,) * 4
    fits = min(left, top) >= -most_beyond
    if not (fits and right <= slide.width + most_beyond and bottom <= slide.height + most_beyond):
        raise DataError(
            f"{file}: its regions reach from {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}, beyond the slide "
            f"{slide.path.name} of {slide.width} x {slide.height} pixels; give those of this slide"
        )
    return joined


def _geometries(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, list):
        for each in content:
            yield from _geometries(each)
    elif isinstance(content, dict):
        inner = next((content[key] for key in ("features", "geometries", "geometry") if key in content), None)
        if isinstance(inner, list | dict):
            yield from _geometries(inner)
        else:
            yield content
