"""Where pictures lie on earth: blocks of land that stay on one side of a split, and distances in metres.

Neighbouring pictures look alike, so a random split tests on what was all but seen. Blocks are cut along lines of the
raster's own coordinates, a fixed number of metres apart on the ground (WGS 84).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.contracts import DomainData, Item
from ...core.errors import DataError, shortened
from .gdal import reprojected
from .rasters import Header, coordinates, header_of, raster_corners, transform_at
from .scene_sets import bare_name

WGS84 = "EPSG:4326"
AXIS, FLATTENING = 6_378_137.0, 1 / 298.257223563
WINDOWS_PER_BLOCK = 10
SHARED = 0.5
"""Two pictures that share more than this of the smaller one's land show one place."""
LATITUDES, LONGITUDES = ("latitude", "lat"), ("longitude", "lon", "lng")
"""Columns of a table, as `plain` has them."""


@dataclass(frozen=True)
class PicturePlace:
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
        return raster_corners(self.transform, (0, 0, width, height))

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude in degrees.

        Raises:
            DataError: its coordinates are none on earth.
        """
        x, y = self.corners.mean(axis=0)
        return tuple(float(v[0]) for v in to_degrees(self.crs, [x], [y]))


def item_place(item: Item) -> PicturePlace:
    """Where an item lies, whole raster or window."""
    header = header_of(files_of_item(item), item.decode.get("sensor"))
    left, top, width, height = item.decode.get("window") or (0, 0, header.width, header.height)
    transform = None if header.transform is None else transform_at(header.transform, left, top)
    return PicturePlace(header.crs, transform, (height, width), header.time)


def files_of_item(item: Item) -> list[Path]:
    """All files of an item's raster."""
    names = item.decode.get("files")
    return [item.source.parent / name for name in names] if names else [item.source]


def to_degrees(crs: str, x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of coordinates.

    Raises:
        DataError: they are none on earth.
    """
    longitude, latitude = reprojected(x, y, crs, WGS84, "a raster")
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
    """Pictures of a set in groups by block of land; as it is where the data name groups, where nothing says where a
    picture lies, or where `block_size` is 0.

    A picture lies where its raster says, else where the columns latitude and longitude of its table say. Two pictures
    that share half of their land are in one group, also beside the border of a block. Splits that the data give stay as
    they are; a val that is taken from the given train is taken by block.

    Args:
        block_size: side in metres; None for ten times that of a usual picture, or where that is not known, ten times
            the usual distance to the next picture.

    Raises:
        DataError: the pictures cover less than two blocks, one raster has a CRS and another none, or a place in a table
            is none on earth.
    """
    splits = {item.split for item in data.items if item.split}
    if block_size == 0 or len(splits) > 2 or any(item.group for item in data.items):
        return data
    divided = len(splits) == 2
    training = "train" if "train" in splits else "val"
    chosen = [k for k, item in enumerate(data.items) if not divided or item.split in ("", training)]
    spots = _spots([data.items[k] for k in chosen]) or _spots_of_table(data, chosen)
    placed = [(k, spot) for k, spot in zip(chosen, spots) if spot is not None]
    if not placed or (divided and data.whole_train):
        return data
    size = block_size or WINDOWS_PER_BLOCK * _usual_side([spot for _, spot in placed])
    blocks = _joined([spot for _, spot in placed], size)
    if len(set(blocks)) < 2:
        if divided:
            return data
        raise DataError(
            f"{data.name}: its pictures cover less than two blocks of {metres(size)}, so that none is left for "
            "testing; give a smaller --block-size, 0 for random splits, or your own split"
        )
    items = list(data.items)
    for (k, _), (row, column) in zip(placed, blocks):
        items[k] = items[k].with_(group=f"block {row} {column}")
    what = "Val is taken from train" if divided else "Splits are"
    notes = [f"{what} by place: {len(set(blocks))} blocks of {metres(size)}, each on one side (--block-size)."]
    if elsewhere := len(chosen) - len(placed):
        notes.append(f"Images of which nothing says where they lie, split at random: {elsewhere}.")
    settled = data.open_groups.note if data.open_groups is not None else ""
    notes = [*(note for note in data.notes if note != settled), *notes]
    blocks_in_words = "" if divided else f"blocks of {metres(size)}"
    return replace(data, items=items, notes=notes, blocks=blocks_in_words, open_groups=None)


def check_every_crs(headers: Sequence[Header], files: Sequence[Path]) -> None:
    """Refuse a raster without a CRS beside one with: nothing says whether they show the same land.

    Raises:
        DataError: it names both.
    """
    without = next((file for header, file in zip(headers, files) if not _is_placed(header)), None)
    beside = next((file for header, file in zip(headers, files) if _is_placed(header)), None)
    if without is not None and beside is not None:
        raise DataError(
            f"{without}: has no CRS, but {beside.name} beside it has one, so nothing says how they lie to each other; "
            "add its CRS and transform, or give --block-size 0 for random splits"
        )


def metres(size: float) -> str:
    """ "850 m", "2.24 km"."""
    return f"{size:.3g} m" if size < 1000 else f"{size / 1000:.3g} km"


@dataclass(frozen=True)
class _Spot:
    """Where a picture lies, in degrees.

    Args:
        centre: longitude and latitude.
        bounds: west, south, east and north; the centre twice where its extent is not known.
        side: metres of the longer side, 0 where it is not known.
    """

    centre: tuple[float, float]
    bounds: tuple[float, float, float, float]
    side: float = 0.0


def _is_placed(where: Header | PicturePlace) -> bool:
    return bool(where.crs) and where.transform is not None


def _spots(items: Sequence[Item]) -> list[_Spot | None]:
    """Of each item that is a raster with a CRS; none at all where no raster has one."""
    from .pictures import is_raster

    places: dict[int, PicturePlace] = {}
    for k, item in enumerate(items):
        if is_raster(item.source):
            with suppress(DataError):  # a file that cannot be read is listed where all images are checked
                places[k] = item_place(item)
    if not any(map(_is_placed, places.values())):
        return []
    check_every_crs(list(places.values()), [items[k].source for k in places])
    return [_spot(places[k]) if k in places else None for k in range(len(items))]


def _spot(place: PicturePlace) -> _Spot:
    longitude, latitude = to_degrees(place.crs, *place.corners.T)
    bounds = longitude.min(), latitude.min(), longitude.max(), latitude.max()
    side = max(_metres(longitude[i], latitude[i], longitude[i + 1], latitude[i + 1]) for i in (0, 1))
    return _Spot(place.centre, tuple(map(float, bounds)), side)


def _spots_of_table(data: DomainData, chosen: Sequence[int]) -> list[_Spot | None]:
    """By the columns of coordinates of the table that lists the pictures; none where it has no such columns."""
    columns = None if data.columns is None else data.columns()
    if columns is None:
        return []
    named = {bare_name(name): name for name in columns.names}
    pair = [next((named[name] for name in names if name in named), None) for names in (LONGITUDES, LATITUDES)]
    if None in pair:
        return []
    east, north = (columns.cells(name) for name in pair)
    ids = [data.items[k].id for k in chosen]
    return [_spot_of_cells(east.get(id_, ""), north.get(id_, ""), f"{columns.place}: {id_}") for id_ in ids]


def _spot_of_cells(longitude: str, latitude: str, where: str) -> _Spot | None:
    if not longitude.strip() or not latitude.strip():
        return None
    try:
        x, y = float(longitude), float(latitude)
    except ValueError:
        x = y = math.nan
    if not (abs(x) <= 360 and abs(y) <= 90):
        shown = shortened(f"{latitude}, {longitude}")
        raise DataError(f"{where} lies at latitude, longitude {shown}, which is no place in degrees; correct the table")
    return _Spot((x, y), (x, y, x, y))


def _usual_side(spots: Sequence[_Spot]) -> float:
    """Metres of a usual picture; of points the usual distance to the next."""
    if side := float(np.median([spot.side for spot in spots])):
        return side
    from scipy.spatial import cKDTree

    places = np.unique(_metres_from_corner(np.array([spot.centre for spot in spots])), axis=0)
    if len(places) < 2:
        return 1.0
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))


def _joined(spots: Sequence[_Spot], size: float) -> list[tuple[int, int]]:
    """Row and column of the block of each picture, the same for pictures that share half of their land."""
    blocks = _blocks_of(np.array([spot.centre for spot in spots]), size)
    first = list(range(len(spots)))

    def root(k: int) -> int:
        while first[k] != k:
            first[k] = first[first[k]]
            k = first[k]
        return k

    for one, other in _sharing_land(spots):
        low, high = sorted((root(one), root(other)))
        first[high] = low
    return [blocks[root(k)] for k in range(len(spots))]


def _sharing_land(spots: Sequence[_Spot]) -> np.ndarray:
    """(P, 2) pairs of pictures that share half of the smaller one's land or more."""
    bounds = np.array([spot.bounds for spot in spots])  # (N, 4)
    if not (bounds[:, 2] > bounds[:, 0]).any():
        return np.zeros((0, 2), int)
    import shapely

    areas = shapely.box(*bounds.T)
    pairs = shapely.STRtree(areas).query(areas, predicate="intersects").T
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    shared = shapely.area(shapely.intersection(areas[pairs[:, 0]], areas[pairs[:, 1]]))
    smaller = shapely.area(areas)[pairs].min(axis=1)
    return pairs[(shared > SHARED * smaller) & (smaller > 0)]


def _blocks_of(centres: np.ndarray, size: float) -> list[tuple[int, int]]:
    """Row and column of the block that each of (N, 2) longitudes and latitudes lies in."""
    columns, rows = np.floor(_metres_from_corner(centres) / size + 1e-9).astype(int).T
    return list(zip(rows.tolist(), columns.tolist()))


def _metres_from_corner(centres: np.ndarray) -> np.ndarray:
    """(N, 2) longitudes and latitudes as metres east and north of the lowest."""
    return (centres - centres.min(axis=0)) * _metres_per_degree(float(centres[:, 1].mean()))


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
