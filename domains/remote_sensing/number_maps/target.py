"""A raster of numbers as the target of pixels: heights, shares, tonnes per hectare; read window by window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Item, Target
from ....core.errors import DataError
from ..gdal import opened, safely, same_crs
from ..pictures import in_unit, masked_pixels
from ..rasters import Header, header_of

COARSER = 2.0
"""How many times larger, or smaller, pixels of a target may be than those of the image."""
FIRST_BAND = 1


@dataclass(frozen=True)
class _Grid:
    """The pixels of an image, which a target is brought to.

    Args:
        transform: as of `Header`.
        crs: as WKT.
    """

    width: int
    height: int
    transform: tuple[float, ...]
    crs: str


@dataclass(frozen=True)
class NumberSource:
    """A band of numbers over an image.

    Args:
        file: the raster.
        band: from 1.
        scale, offset: value = stored value * scale + offset.
        nodata: stored value that means nothing, beside the file's own; None for none.
        grid: of the image, where it differs from the raster's own.
        finer: whether pixels of the raster are smaller than the image's, so that their mean is taken.
        name, unit: of the band, "" where the file says nothing.
    """

    file: Path
    band: int = FIRST_BAND
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    grid: _Grid | None = None
    finer: bool = False
    name: str = ""
    unit: str = ""

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The dataset, in the pixels of the image."""
        with safely([self.file]), ExitStack() as stack:
            dataset = stack.enter_context(opened(self.file))
            yield dataset if self.grid is None else stack.enter_context(self._on_grid(dataset, self.grid))

    def read(self, dataset: Any, box: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) float32 numbers, 0 where there are none, and (h, w) bool, where there are.

        Args:
            dataset: as `open` gives it.
            box: (left, top, width, height) in pixels of the image.
        """
        from rasterio.enums import ColorInterp
        from rasterio.windows import Window

        window = Window(*box)
        stored = dataset.read(self.band, window=window)
        there = (dataset.read_masks(self.band, window=window) > 0) & np.isfinite(stored)
        if dataset.colorinterp[-1] == ColorInterp.alpha:  # which is no mask where it is of decimal numbers
            there &= dataset.read(dataset.count, window=window) > 0
        if self.nodata is not None:
            there &= stored != self.nodata
        values = (np.where(there, stored, 0).astype(np.float64) * self.scale + self.offset).astype(np.float32)
        return np.where(there, values, 0), there

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "file": str(self.file)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NumberSource:
        grid = values["grid"]
        grid = None if grid is None else _Grid(**{**grid, "transform": tuple(grid["transform"])})
        return cls(**{**values, "file": Path(values["file"]), "grid": grid})

    def _on_grid(self, dataset: Any, grid: _Grid) -> Any:
        from rasterio.enums import Resampling
        from rasterio.transform import Affine
        from rasterio.vrt import WarpedVRT

        nothing = dataset.nodata if self.nodata is None else self.nodata
        place = {"crs": grid.crs, "transform": Affine(*grid.transform), "width": grid.width, "height": grid.height}
        how = Resampling.average if self.finer else Resampling.bilinear
        masked = {"add_alpha": True} if nothing is None else {"src_nodata": nothing, "nodata": nothing}
        return WarpedVRT(dataset, resampling=how, **masked, **place)


@dataclass(frozen=True)
class NumberMap(Target):
    """A number for each pixel of a picture, or of a window of it.

    Args:
        source: where the numbers are.
        box: (left, top, width, height) in pixels of the whole picture.
        count: pixels that have a number.
        total, squares: the sum of these numbers, and of their squares.
    """

    source: NumberSource
    box: tuple[int, int, int, int]
    count: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        return self.total / self.count

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """As `NumberSource.read`."""
        with self.source.open() as dataset:
            return self.source.read(dataset, self.box)


def place_of_item(item: Item) -> str:
    """What an item is counted with: its block or group, else its picture."""
    return item.group or item.id.rpartition("#")[0] or item.id


def source_over(
    file: Path,
    picture: Path,
    header: Header | None,
    size: tuple[int, int],
    *,
    band: int | None = None,
    nodata: float | None = None,
    resample: bool = False,
) -> NumberSource:
    """A target raster as it lies over an image.

    Args:
        file: of the target.
        picture: the image, for messages.
        header: of an image that is a raster, else None.
        size: (height, width) of the image.
        band: from 1; None where there is only one.
        nodata: stored value that means nothing, where the file does not say so.
        resample: take pixels of any size.

    Raises:
        DataError: it is no raster of numbers, has another CRS or none, lies elsewhere, or its pixels are more than
            `COARSER` times larger or smaller.
    """
    with safely([file]), opened(file) as dataset:
        band = _band_of(dataset, file, band)
        facts = {"scale": dataset.scales[band - 1], "offset": dataset.offsets[band - 1], "nodata": nodata}
        facts |= {"name": dataset.descriptions[band - 1] or "", "unit": dataset.units[band - 1] or ""}
    own = header_of([file])
    source = NumberSource(file, band, **facts)
    if header is None or not (own.crs or header.crs):
        if (own.height, own.width) != tuple(size) or (header is not None and own.grid != header.grid):
            raise DataError(
                f"{file}: {own.width} x {own.height} pixels over {picture.name} of {size[1]} x {size[0]}, and no CRS "
                "says how they lie; give a target of the same pixels"
            )
        return source
    _check_crs(file, own, picture, header)
    if own.transform is None or header.transform is None:
        raise DataError(f"{file if own.transform is None else picture}: has a CRS but no transform; add one")
    ratio = [mine / theirs for mine, theirs in zip(own.pixel, header.pixel)]
    if not resample and not all(1 / COARSER <= each <= COARSER for each in ratio):
        raise DataError(
            f"{file}: its pixels of {own.pixel[1]:g} x {own.pixel[0]:g} are not those of {picture.name} "
            f"({header.pixel[1]:g} x {header.pixel[0]:g}): more than {COARSER:g} times apart; resample one of them, or "
            "give --resample-target"
        )
    low, high = (
        np.maximum(own.corners.min(0), header.corners.min(0)),
        np.minimum(own.corners.max(0), header.corners.max(0)),
    )
    if (low >= high).any():
        raise DataError(f"{file}: lies elsewhere than {picture.name}; give the target of that place")
    if own.grid == header.grid:
        return source
    grid = _Grid(header.width, header.height, tuple(header.transform), header.crs)
    return NumberSource(file, band, **facts, grid=grid, finer=min(ratio) < 1)


def _band_of(dataset: Any, file: Path, asked: int | None) -> int:
    """The band of a target raster, from 1."""
    from rasterio.enums import ColorInterp

    numbers = [i for i, colour in zip(dataset.indexes, dataset.colorinterp) if colour != ColorInterp.alpha]
    if asked is not None and asked not in numbers:
        raise DataError(f"{file}: has no band {asked} of numbers, only {len(numbers)}; correct --target-band")
    if asked is None and len(numbers) != 1:
        raise DataError(f"{file}: has {len(numbers)} bands, and a target has one number per pixel; give --target-band")
    band = asked or numbers[0]
    if dataset.colorinterp[band - 1] == ColorInterp.palette:
        raise DataError(f"{file}: its values stand for colours of a palette, not for numbers; give --task segmentation")
    if np.dtype(dataset.dtypes[band - 1]).kind not in "iuf":
        raise DataError(f"{file}: has {dataset.dtypes[band - 1]} values; a target has whole or decimal numbers")
    return band


def _check_crs(file: Path, own: Header, picture: Path, header: Header) -> None:
    """Raise the DataError of a target of another CRS, or where one of both has none."""
    if bool(own.crs) != bool(header.crs):
        which, other = (file, picture) if not own.crs else (picture, file)
        raise DataError(f"{which}: has no CRS, but {other.name}, which it goes with, has one; add its CRS")
    if not same_crs(own.crs, header.crs):
        one, other = _called(own.crs), _called(header.crs)
        raise DataError(f"{file}: is in {one}, but {picture.name} in {other}; reproject the target")


def _called(crs: str) -> str:
    """The code of a CRS (EPSG:32633), where it has one."""
    from rasterio.crs import CRS

    named = CRS.from_wkt(crs).to_authority()
    return ":".join(named) if named else "a CRS of its own"


def scaled_pixels(source: Path, decode: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) float32 in 0..1, black where the image has nothing, and (H, W) bool, where it has values."""
    pixels, valid = masked_pixels(source, decode)
    return in_unit(pixels), valid


def item_pixels(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """As `scaled_pixels`."""
    return scaled_pixels(item.source, item.decode)
