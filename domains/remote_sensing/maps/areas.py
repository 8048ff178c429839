"""How large pixels and regions are on the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....core.errors import DataError
from ..gdal import linear_unit, reprojected
from ..rasters import Header

EQUAL_AREA = "EPSG:6933"
"""A cylindrical equal-area projection of the WGS 84 ellipsoid: what lies along meridians and parallels stays straight,
so that areas of such pixels and regions are exact."""
MOST_DISTORTION = 0.01


@dataclass(frozen=True)
class Ground:
    """Areas on the ground under a raster.

    Planar where the CRS is projected and keeps areas within 1 % at the raster's centre, as UTM and most national grids
    do; else of the ellipsoid, as for a geographic CRS and Web Mercator; in pixels without a CRS.

    Args:
        header: of the raster.
        unit: metres of a unit of its coordinates; None for areas of the ellipsoid, 0 for pixels.
    """

    header: Header
    unit: float | None

    @classmethod
    def of(cls, header: Header) -> Ground:
        """How areas under a raster are best told.

        Raises:
            DataError: its coordinates are none on earth.
        """
        if not header.crs or header.transform is None:
            return cls(header, 0)
        unit, curved = linear_unit(header.crs), cls(header, None)
        if unit is None:
            return curved
        planar, middle = cls(header, unit), np.array([header.height // 2])
        try:
            on_earth = curved.of_pixels(middle)[0]
        except DataError:  # a local grid, which lies nowhere on the ellipsoid
            return planar
        return planar if abs(planar.of_pixels(middle)[0] / on_earth - 1) <= MOST_DISTORTION else curved

    @property
    def words(self) -> str:
        """For messages: what areas are."""
        if self.unit == 0:
            return "areas are in pixels, since the raster has no CRS"
        if self.unit is None:
            return "areas are geodesic, of the WGS 84 ellipsoid"
        return "areas are planar, in the raster's projection"

    @property
    def in_metres(self) -> bool:
        return self.unit != 0

    def of_pixels(self, rows: np.ndarray) -> np.ndarray:
        """(N,) area of a pixel in each of N rows, at the raster's middle column."""
        if self.unit == 0:
            return np.ones(len(rows))
        a, b, c, d, e, f = self.header.transform
        if self.unit is not None:
            return np.full(len(rows), abs(a * e - b * d) * self.unit**2)
        column = self.header.width // 2
        u = column + np.array([0, 1, 1, 0])[:, None]  # (4, 1)
        v = rows[None] + np.array([0, 0, 1, 1])[:, None]  # (4, N)
        x, y = a * u + b * v + c, d * u + e * v + f
        x, y = (
            each.reshape(x.shape) for each in reprojected(x.ravel(), y.ravel(), self.header.crs, EQUAL_AREA, "a raster")
        )
        return abs((x * np.roll(y, -1, axis=0) - y * np.roll(x, -1, axis=0)).sum(axis=0)) / 2

    def of_shapes(self, shapes: np.ndarray) -> np.ndarray:
        """(N,) areas of N shapely geometries in the raster's coordinates."""
        import shapely

        if self.unit is not None:
            a, b, _, d, e, _ = self.header.transform or (1, 0, 0, 0, 1, 0)
            return shapely.area(shapes) * (self.unit**2 or 1 / abs(a * e - b * d))
        crs = self.header.crs

        def on_equal_area(xy: np.ndarray) -> np.ndarray:
            return np.column_stack(reprojected(xy[:, 0], xy[:, 1], crs, EQUAL_AREA, "a raster"))

        return shapely.area(shapely.transform(shapes, on_equal_area))
