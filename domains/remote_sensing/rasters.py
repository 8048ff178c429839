"""Rasters: what a file says of itself, and its values, of a part or at a smaller size."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Item
from ...core.errors import DataError, LimitError
from ...core.runtime import check_regular, version_of
from .bands import Sensor, common_names, sensors
from .gdal import opened, safely

MOST_BANDS = 2000
MOST_FILES = 64
"""Bands of a place in files of their own."""
COLOURS = frozenset({"red", "green", "blue", "nir"})
PALETTE, EXPANDED = "palette", ("red", "green", "blue")
"""What GDAL calls a band whose values are places in a table of colours, and the bands that it is read as."""
TIMES = ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME", "DATETIME", "SENSING_TIME", "datetime")
DB_FLOOR = 1e-6
DATES = re.compile(r"(?<!\d)((?:19|20)\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?!\d{6})")
BASELINE = re.compile(r"_N(\d{4})_")
SENSOR_NAMES = ((re.compile(r"^S2[A-D]_"), "sentinel-2"), (re.compile(r"^L[COT]0[89]_"), "landsat-8"))


@dataclass(frozen=True)
class BandScaling:
    """Physical value = stored value * scale + offset, of each band."""

    scales: tuple[float, ...]
    offsets: tuple[float, ...]


@dataclass(frozen=True)
class Header:
    """What a raster says of itself, no pixel read.

    Args:
        width, height: of the grid, that of the finest band.
        kinds: numpy type of each band, alpha bands left out.
        names: of each band, all that it is called by.
        crs: as text (WKT), "" for none.
        transform: the six numbers (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f; None for none.
        time: of the picture as text, "" where nothing says.
        scaling: of each band.
        alpha: whether there is transparency besides.
        palette: whether its bands are the colours of a palette.
        masked: whether pixels of it may have no value.
    """

    width: int
    height: int
    kinds: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    crs: str
    transform: tuple[float, ...] | None
    time: str
    scaling: BandScaling
    alpha: bool = False
    palette: bool = False
    masked: bool = False

    @classmethod
    def unplaced(cls, height: int, width: int) -> Header:
        """That of an image, which lies nowhere."""
        return cls(width, height, ("uint8",), ((),), "", None, "", BandScaling((1.0,), (0.0,)))

    @property
    def pixel(self) -> tuple[float, float]:
        """Height and width of a pixel in units of the coordinates."""
        a, b, _, d, e, _ = self.transform
        return math.hypot(b, e), math.hypot(a, d)

    @property
    def grid(self) -> tuple[int, int, tuple[float, ...] | None]:
        """Height, width and transform, which are equal where the pixels of two rasters of one CRS are."""
        return self.height, self.width, self.transform

    @property
    def corners(self) -> np.ndarray:
        """As `raster_corners` the whole raster."""
        return raster_corners(self.transform, (0, 0, self.width, self.height))


def coordinates(transform: Sequence[float], column: float, row: float) -> tuple[float, float]:
    """Those of a place in pixels; `transform` as of `Header`."""
    a, b, c, d, e, f = transform[:6]
    return a * column + b * row + c, d * column + e * row + f


def raster_corners(transform: Sequence[float], box: tuple[int, int, int, int]) -> np.ndarray:
    """(4, 2) coordinates of upper left, upper right, lower right and lower left.

    Args:
        box: (left, top, width, height) in pixels.
    """
    left, top, width, height = box
    places = ((left, top), (left + width, top), (left + width, top + height), (left, top + height))
    return np.array([coordinates(transform, *place) for place in places])


def transform_at(transform: Sequence[float], left: int, top: int) -> tuple[float, ...]:
    """The transform of a window that begins at a pixel."""
    a, b, _, d, e, _ = transform[:6]
    x, y = coordinates(transform, left, top)
    return a, b, x, d, e, y


def header_of(files: Sequence[Path], sensor: str | None = None) -> Header:
    """The header of a raster; read once as long as its files stay the same.

    Args:
        files: one, or the bands of one place in several.
        sensor: name of what took it, where known.

    Raises:
        DataError: it cannot be read. CapabilityError: rasterio is not installed.
    """
    return _header(_stamps(files), sensor)


@contextmanager
def open_raster(
    files: Sequence[Path], sensor: str | None = None, grid: Header | None = None, classes: bool = False
) -> Iterator[OpenRaster]:
    """An open raster of one or several files; see `header_of`.

    Args:
        grid: of another raster, which this one is brought to, by the nearest pixel.
        classes: its values stand for classes, whatever colours a palette shows them in.

    Raises:
        DataError: it cannot be read, here or while it is used. CapabilityError: rasterio is not installed.
    """
    with safely(files), ExitStack() as stack:
        yield _opened_on_one_grid(files, sensor, stack, grid, classes)


@contextmanager
def kept_raster(files: Sequence[Path], sensor: str | None = None) -> Iterator[OpenRaster]:
    """As `open_raster`, of which several parts are read one after the other: it stays open, and so do the blocks that
    GDAL holds of it, until this thread reads another."""
    key = (os.getpid(), _stamps(files), sensor)
    with safely(files):
        if KEPT.__dict__.get("key") != key:
            KEPT.__dict__.pop("stack", ExitStack()).close()
            KEPT.__dict__.clear()
            with ExitStack() as stack:
                raster = _opened_on_one_grid(files, sensor, stack)
                KEPT.raster, KEPT.stack, KEPT.key = raster, stack.pop_all(), key
        yield KEPT.raster


KEPT = threading.local()
"""The raster that each thread holds open."""


class OpenRaster:
    """Bands of one place on one grid. `header` says what they are.

    Args:
        stored: bands of the files, transparency included; a dataset on another grid may have one more.
        classes: as of `open_raster`; else a band with a palette is three, those of its colours.
    """

    def __init__(self, files: list[Path], datasets: list[Any], sensor: str | None, stored: int, classes: bool = False):
        self.files, self._datasets = files, datasets
        if sum(each.count for each in datasets) > MOST_BANDS:
            raise DataError(f"{files[0]}: has more than {MOST_BANDS:,} bands; choose some of them, or get it again")
        colours = [[colour.name for colour in each.colorinterp] for each in datasets]
        every = [(each, i) for each in datasets for i in each.indexes]
        self._colours = dict(zip(every, (name for names in colours for name in names)))
        solid = [band for band in every if self._colours[band] != "alpha"]
        if not solid:
            raise DataError(f"{files[0]}: has no band other than transparency; give another file")
        # four bands are easily written with the fourth marked as transparency: a sensor that is named knows better
        named = sensors().get(sensor)
        self._mistaken = len(files) == 1 and stored > len(solid) and bool(named and named.order_of(stored))
        self._bands = every if self._mistaken else solid
        transparent = [] if self._mistaken else [band for band in every if band not in solid]
        self._unheeded = {
            id(each): i for each, i in transparent if all("alpha" not in _names(of) for of in each.mask_flag_enums)
        }
        self._palette = None
        if PALETTE in self._colours.values() and not classes:
            if len(self._bands) > 1:
                raise DataError(f"{files[0]}: has a palette besides other bands; convert its colours to three bands")
            self._palette, self._bands = _palette(*self._bands[0]), self._bands * len(EXPANDED)
        self._sensor = _sensor(sensor, files, len(self._bands))
        self.header = self._read_header()

    def read(
        self, bands: Sequence[int], window: Sequence[int] | None = None, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Physical values, and where there are any.

        Args:
            bands: positions, from 0.
            window: (left, top, width, height) in pixels of the grid; None for all of it.
            size: (height, width) to bring it to, by averages and from overviews where there are any; None: as it is.

        Returns:
            (B, h, w) float32, dB of complex values; (h, w) bool, false where a band has nothing.
        """
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        header = self.header
        window = (0, 0, header.width, header.height) if window is None else tuple(window)
        left, top, width, height = window
        if min(left, top) < 0 or left + width > self.header.width or top + height > self.header.height:
            raise DataError(f"{self.files[0]}: window {list(window)} lies outside it; correct the window")
        how = {"window": Window(*window), "out_shape": size, "resampling": Resampling.average}
        if size is None:
            how = {"window": how["window"]}
        values, valid = [], None
        for position in bands:
            dataset, index = self._bands[position]
            raw = dataset.read(index, **(how if self._palette is None else _nearest(how)))
            there = self._unmasked(dataset, index, _nearest(how)) & self._there(raw, dataset, index)
            if self._palette is not None:
                colours = self._palette[raw]  # (h, w, 4)
                raw, there = colours[..., position], there & (colours[..., 3] > 0)
            values.append(self._physical(raw, position))
            valid = there if valid is None else valid & there
        stacked = np.stack(values)
        return np.where(np.isfinite(stacked), stacked, 0), valid & np.isfinite(stacked).all(axis=0)

    def check_size(self, shape: tuple[int, int], size: tuple[int, int] | None, limit: int = Item.MAX_PIXELS) -> None:
        """Refuse what would take too much memory or time.

        Args:
            shape: (height, width) that is read.
            size: what it is brought to, or None.
            limit: most pixels that are decoded, where overviews do not spare it, and of a block of the file.
        """
        shrink = 1.0 if size is None else shape[0] / size[0]
        factors = [each.overviews(1) for each in self._datasets]
        spared = min((max((f for f in of if f <= shrink), default=1) for of in factors), default=1)
        blocks = max(rows * columns for each in self._datasets for rows, columns in each.block_shapes[:1])
        if max(shape[0] * shape[1] // spared**2, blocks) > limit:
            what = f"{self.files[0]}: a raster of {self.header.width} x {self.header.height} pixels"
            raise LimitError.too_large(what, limit)

    def _unmasked(self, dataset, index: int, how: dict[str, Any]) -> np.ndarray | bool:
        """Where the file says that there is a value. GDAL's masks leave out transparency beside bands of other types
        than uint8 and uint16, and beside nodata."""
        if self._mistaken:
            return True
        unmasked = dataset.read_masks(index, **how) > 0
        alpha = self._unheeded.get(id(dataset))
        return unmasked if alpha is None else unmasked & (dataset.read(alpha, **how) > 0)

    def _there(self, raw: np.ndarray, dataset, index: int) -> np.ndarray | bool:
        """Where values mean something, as far as the mask of the file does not say it."""
        if raw.dtype.kind == "c":
            return raw != 0
        if raw.dtype.kind == "f":
            return np.isfinite(raw)
        if self._sensor is None or self._sensor.nodata is None or dataset.nodatavals[index - 1] is not None:
            return True
        return raw != self._sensor.nodata if raw.dtype.itemsize > 1 else True

    def _physical(self, raw: np.ndarray, position: int) -> np.ndarray:
        if raw.dtype.kind == "c":
            return (20 * np.log10(np.maximum(np.abs(raw), DB_FLOOR))).astype(np.float32)
        scale, offset = self.header.scaling.scales[position], self.header.scaling.offsets[position]
        if (scale, offset) == (1.0, 0.0):
            return raw.astype(np.float32)
        return (raw.astype(np.float64) * scale + offset).astype(np.float32)

    def _read_header(self) -> Header:
        first = self._datasets[0]
        kinds = tuple("uint8" if self._palette is not None else str(kind) for kind in self._of_bands("dtypes"))
        crs = "" if first.crs is None else first.crs.to_wkt()
        placed = crs or not first.transform.is_identity
        return Header(
            first.width,
            first.height,
            kinds,
            tuple(common_names(self._own_names(), self._sensor)),
            crs,
            tuple(first.transform)[:6] if placed else None,
            _time(first, self.files[0]),
            self._scaling(kinds),
            alpha=not self._mistaken and "alpha" in self._colours.values(),
            palette=self._palette is not None,
            masked=self._may_be_masked(kinds),
        )

    def _may_be_masked(self, kinds: Sequence[str]) -> bool:
        """By nodata, a mask, transparency, or values that are no numbers."""
        flags = [] if self._mistaken else [flag for band in self._of_bands("mask_flag_enums") for flag in _names(band)]
        of_sensor = self._sensor is not None and self._sensor.nodata is not None
        return (
            of_sensor
            or bool(self._unheeded)
            or self._palette is not None
            or set(flags) != {"all_valid"}
            or any(k[0] in "fc" for k in kinds)
        )

    def _of_bands(self, what: str) -> list[Any]:
        """A list that rasterio has of all bands of a file, as long as `_bands`."""
        listed = {id(each): getattr(each, what) for each in self._datasets}
        return [listed[id(each)][i - 1] for each, i in self._bands]

    def _own_names(self) -> list[str]:
        """What files call their bands; else the sensor's codes in its order."""
        from .stacks import band_of

        if self._palette is not None:
            return list(EXPANDED)
        if len(self._datasets) > 1:
            return [band_of(file) or "" for file in self.files]
        order = None if self._sensor is None else self._sensor.order_of(len(self._bands))
        named = [(name or "").strip() for name in self._of_bands("descriptions")]
        if any(named):
            return named
        if order is not None:
            return list(order)
        colours = [self._colours[band] for band in self._bands]
        return [colour if colour in COLOURS else "" for colour in colours]

    def _scaling(self, kinds: Sequence[str]) -> BandScaling:
        from .stacks import safe_scaling

        tagged = list(zip(self._of_bands("scales"), self._of_bands("offsets")))
        if any(pair != (1.0, 0.0) for pair in tagged):
            return BandScaling(*map(tuple, zip(*tagged)))
        if (of_product := safe_scaling(self.files)) is not None:
            return BandScaling(*of_product)
        plain = self._sensor is None or any(np.dtype(kind).kind not in "iu" for kind in kinds) or "uint8" in kinds
        scale, offset = (1.0, 0.0) if plain else (self._sensor.scale, self._sensor.offset + _since_baseline(self.files))
        return BandScaling((scale,) * len(kinds), (offset,) * len(kinds))


def _names(flags: Sequence[Any]) -> list[str]:
    """Of what a mask is made, as GDAL says it of a band."""
    return [flag.name for flag in flags]


def _stamps(files: Sequence[Path]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and `version_of` of each file."""
    for file in files:
        check_regular(file)
    return tuple((str(file), version_of(os.stat(file))) for file in files)


@lru_cache(maxsize=50_000)
def _header(stamps: tuple[tuple[str, tuple[int, ...]], ...], sensor: str | None) -> Header:
    with open_raster([Path(file) for file, _ in stamps], sensor) as raster:
        return raster.header


def _opened_on_one_grid(
    files: Sequence[Path], sensor: str | None, stack: ExitStack, grid: Header | None = None, classes: bool = False
) -> OpenRaster:
    if len(files) > MOST_FILES:
        raise DataError(f"{files[0]}: {len(files)} bands in separate files, more than {MOST_FILES}; remove some")
    datasets = [stack.enter_context(opened(file)) for file in files]
    stored = sum(each.count for each in datasets)
    if grid is not None:
        datasets = [stack.enter_context(_on_grid(each, grid)) for each in datasets]
    return OpenRaster(list(files), _on_one_grid(datasets, files, stack), sensor, stored, classes)


def _on_grid(dataset, grid: Header):
    """A dataset seen on another grid, by the nearest pixel."""
    from rasterio.transform import Affine

    place = {"crs": grid.crs, "transform": Affine(*grid.transform), "width": grid.width, "height": grid.height}
    return _warped(dataset, "nearest", place)


def _on_one_grid(datasets: list[Any], files: Sequence[Path], stack: ExitStack) -> list[Any]:
    """All on the grid of the finest."""
    if len(datasets) == 1:
        return datasets
    finest = max(datasets, key=lambda each: (each.width * each.height, -datasets.index(each)))
    grid = {"crs": finest.crs, "transform": finest.transform, "width": finest.width, "height": finest.height}
    placed = []
    for each, file in zip(datasets, files):
        if (each.crs, each.shape) == (finest.crs, finest.shape) and each.transform.almost_equals(finest.transform):
            placed.append(each)
            continue
        if each.crs is None or finest.crs is None:
            raise DataError(f"{file}: differs in size from the other bands of its place, and has no CRS; resample it")
        placed.append(stack.enter_context(_warped(each, "bilinear", grid, whole=_covers(each, finest))))
    return placed


def _warped(dataset, resampling: str, grid: dict[str, Any], whole: bool = False):
    """A dataset seen on another grid, resampled in rasterio's way of that name; what it does not reach is masked.

    Args:
        whole: it has a value at every pixel of the grid.
    """
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.vrt import WarpedVRT

    masked = dataset.nodata is not None or ColorInterp.alpha in dataset.colorinterp
    return WarpedVRT(dataset, resampling=Resampling[resampling], add_alpha=not (masked or whole), **grid)


def _covers(dataset, other) -> bool:
    """Whether a dataset has a value at every pixel of another; False where that takes more than a look at corners."""
    upright = dataset.transform.is_rectilinear and other.transform.is_rectilinear and dataset.crs == other.crs
    if not upright or any(_names(flags) != ["all_valid"] for flags in dataset.mask_flag_enums):
        return False
    (left, bottom, right, top), inner, slack = dataset.bounds, other.bounds, min(map(abs, other.res)) / 100
    return (
        left <= inner.left + slack
        and bottom <= inner.bottom + slack
        and right >= inner.right - slack
        and top >= inner.top - slack
    )


def _palette(dataset: Any, index: int) -> np.ndarray:
    """(entries, 4) uint8 red, green, blue and opacity of each value of a band; what is not listed is clear."""
    table = np.zeros((np.iinfo(dataset.dtypes[index - 1]).max + 1, 4), np.uint8)
    for value, colour in dataset.colormap(index).items():
        table[value] = colour
    return table


def _nearest(how: dict[str, Any]) -> dict[str, Any]:
    """For masks, which averages would blur."""
    from rasterio.enums import Resampling

    return {**how, "resampling": Resampling.nearest} if "resampling" in how else how


def _sensor(name: str | None, files: Sequence[Path], count: int) -> Sensor | None:
    """The sensor that is asked for, or that the name of the file or of its folder says."""
    if name is not None:
        sensor = sensors()[name]
        if len(files) == 1 and sensor.order_of(count) is None:
            counts = ", ".join(str(len(order)) for order in sensor.orders)
            raise DataError(
                f"{files[0]}: has {count} bands, but files of {name} have {counts}; correct or omit --sensor"
            )
        return sensor
    parts = files[0].resolve().parts[-6:]
    return next((sensors()[known] for sign, known in SENSOR_NAMES for part in parts if sign.match(part)), None)


def _since_baseline(files: Sequence[Path]) -> float:
    """-0.1 for Sentinel-2 products of processing baseline 04.00 and later, as their names say."""
    match = next((m for part in files[0].resolve().parts if (m := BASELINE.search(part)) and "S2" in part), None)
    return -0.1 if match and int(match.group(1)) >= 400 else 0.0


def _time(dataset, file: Path) -> str:
    tags = dataset.tags()
    named = next((str(tags[name]) for name in TIMES if tags.get(name)), "")
    match = DATES.search(named.replace(":", "").replace("-", "")) or DATES.search(file.name)
    return "-".join(match.groups()) if match else ""
