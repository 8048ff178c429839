"""Where pictures lie on earth: blocks of land that stay on one side of a split, and distances in metres.

Neighbouring pictures look alike, so a random split tests on what was all but seen. Blocks are cut along lines of the
raster's own coordinates, a fixed number of metres apart on the ground (WGS 84).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.contracts import DomainData, Item
from ...core.errors import DataError
from .gdal import moved
from .rasters import Header, coordinates, corners_of, header_of, transform_at

WGS84 = "EPSG:4326"
AXIS, FLATTENING = 6_378_137.0, 1 / 298.257223563
WINDOWS_PER_BLOCK = 10


@dataclass(frozen=True)
class Place:
    """Where a picture lies.

    Args:
        crs: as text, "" for none.
        transform: the six numbers from its pixels to coordinates, None where nothing says.
        size: (height, width) in pixels.
        time: as text, "" where nothing says.
    """

    crs: str
    transform: tuple[float, ...] | None
    size: tuple[int, int]
    time: str

    @property
    def corners(self) -> np.ndarray:
        """(4, 2) coordinates of upper left, upper right, lower right and lower left."""
        height, width = self.size
        return corners_of(self.transform, (0, 0, width, height))

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude in degrees.

        Raises:
            DataError: its coordinates are none on earth.
        """
        x, y = self.corners.mean(axis=0)
        return tuple(float(v[0]) for v in to_degrees(self.crs, [x], [y]))


def place_of(item: Item) -> Place:
    """Where an item lies, whole raster or window."""
    header = header_of(files_of_item(item), item.decode.get("sensor"))
    left, top, width, height = item.decode.get("window") or (0, 0, header.width, header.height)
    transform = None if header.transform is None else transform_at(header.transform, left, top)
    return Place(header.crs, transform, (height, width), header.time)


def files_of_item(item: Item) -> list[Path]:
    """All files of an item's raster."""
    names = item.decode.get("files")
    return [item.source.parent / name for name in names] if names else [item.source]


def to_degrees(crs: str, x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of coordinates.

    Raises:
        DataError: they are none on earth.
    """
    longitude, latitude = moved(x, y, crs, WGS84, "a raster")
    if not (abs(latitude) <= 90).all():
        raise DataError("a raster has latitudes beyond the poles; correct its CRS or transform")
    return longitude, latitude


def metres_per_pixel(header: Header) -> tuple[float, float]:
    """Width and height of a pixel on the ground, in metres, at the raster's centre.

    Raises:
        DataError: its coordinates are none on earth.
    """
    x, y = header.width / 2, header.height / 2
    steps = [coordinates(header.transform, *step) for step in ((x, y), (x + 1, y), (x, y + 1))]
    longitude, latitude = to_degrees(header.crs, *zip(*steps))
    return tuple(_metres(longitude[0], latitude[0], longitude[i], latitude[i]) for i in (1, 2))


def with_blocks(data: DomainData, block_size: float | None) -> DomainData:
    """Rasters of a set, each a picture of its own, in groups by block of land; as it is where the data divide
    themselves, where a raster has no CRS, or where `block_size` is 0.

    Args:
        block_size: side in metres; None for ten times that of a usual picture.

    Raises:
        DataError: the pictures cover less than two blocks.
    """
    if block_size == 0 or any(item.split or item.group for item in data.items):
        return data
    places = _places(data.items)
    if places is None:
        return data
    centres = np.array([place.centre for place in places])  # (N, 2) degrees
    sides = [_side(place) for place in places]
    size = block_size or WINDOWS_PER_BLOCK * float(np.median(sides))
    blocks = _blocks_of(centres, size)
    if len(set(blocks)) < 2:
        raise DataError(
            f"{data.name}: its pictures cover less than two blocks of {metres(size)}, so that none is left for "
            "testing; give a smaller --block-size, 0 for random splits, or your own split"
        )
    items = [item.with_(group=f"block {row} {column}") for item, (row, column) in zip(data.items, blocks)]
    note = f"Splits are by place: {len(set(blocks))} blocks of {metres(size)}, each on one side (--block-size)."
    return replace(data, items=items, notes=[*data.notes, note], blocks=f"blocks of {metres(size)}")


def metres(size: float) -> str:
    """ "850 m", "2.24 km"."""
    return f"{size:.3g} m" if size < 1000 else f"{size / 1000:.3g} km"


def _places(items: Sequence[Item]) -> list[Place] | None:
    """Of all items, or None where one lies nowhere."""
    from .pictures import is_raster

    if not items or not all(is_raster(item.source) for item in items):
        return None
    places = []
    for item in items:
        try:
            places.append(place_of(item))
        except DataError:
            return None  # a file that cannot be read is listed where all images are checked
        if not places[-1].crs or places[-1].transform is None:
            return None
    return places


def _side(place: Place) -> float:
    """Metres of a picture's longer side."""
    longitude, latitude = to_degrees(place.crs, *place.corners[:3].T)
    return max(_metres(longitude[i], latitude[i], longitude[i + 1], latitude[i + 1]) for i in (0, 1))


def _blocks_of(centres: np.ndarray, size: float) -> list[tuple[int, int]]:
    """Row and column of the block that each of (N, 2) longitudes and latitudes lies in."""
    middle = float(centres[:, 1].mean())
    across, along = _metres_per_degree(middle)
    low = centres.min(axis=0)
    columns = np.floor((centres[:, 0] - low[0]) * across / size + 1e-9).astype(int)
    rows = np.floor((centres[:, 1] - low[1]) * along / size + 1e-9).astype(int)
    return list(zip(rows.tolist(), columns.tolist()))


def _metres(longitude: float, latitude: float, to_longitude: float, to_latitude: float) -> float:
    """Distance of two places that are near each other on the ellipsoid."""
    across, along = _metres_per_degree((latitude + to_latitude) / 2)
    turn = (to_longitude - longitude + 180) % 360 - 180
    return math.hypot(turn * across, (to_latitude - latitude) * along)


def _metres_per_degree(latitude: float) -> tuple[float, float]:
    """Of longitude and of latitude, from the ellipsoid's radii of curvature."""
    square = FLATTENING * (2 - FLATTENING)
    sine = math.sin(math.radians(latitude))
    normal = AXIS / math.sqrt(1 - square * sine**2)
    meridian = normal * (1 - square) / (1 - square * sine**2)
    return math.radians(normal * math.cos(math.radians(latitude))), math.radians(meridian)
