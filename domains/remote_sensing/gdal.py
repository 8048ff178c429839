"""GDAL, by rasterio, without a network: what is opened, by which driver, and its errors in one line.

Only GeoTIFF, COG, JPEG 2000 and checked VRT files are opened (`vrt.py`), without the files that GDAL would look for
beside them (.aux.xml, .ovr, .msk, world files): these can name addresses, and GDAL would ask there.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...core.errors import CapabilityError, DataError, shortened
from ...core.runtime import check_regular
from .vrt import check_vrt

DRIVERS = {
    **dict.fromkeys((".tif", ".tiff"), "GTiff"),
    **dict.fromkeys((".jp2", ".j2k"), "JP2OpenJPEG"),
    ".vrt": "VRT",
}
INSTALL = 'rasters need rasterio: pip install "vladapt[remote-sensing]"'
LITTLE_SPACE = 1 << 20
NO_NETWORK = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 256,
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",
    "GDAL_HTTP_PROXY": "127.0.0.1:9",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_HTTP_CONNECTTIMEOUT": "1",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "PROJ_NETWORK": "OFF",
}
"""Options of GDAL under which nothing is fetched, nor side files opened; and it holds 256 MB of blocks at most."""


@contextmanager
def safely(files: Sequence[Path]) -> Iterator[None]:
    """GDAL without a network; its errors, of these files, as a DataError of one line."""
    rasterio = _rasterio()
    try:
        with rasterio.Env(**NO_NETWORK):
            yield
    except _gdal_errors() as error:
        cause = shortened(" ".join(str(error.__cause__ or error).split()), 160)
        raise DataError(f"{files[0]}: ends early or is damaged ({cause}); get it again") from None


def opened(file: Path):
    """The open dataset of a raster file, by the driver of its suffix.

    Raises:
        DataError: no regular file, no raster of a known kind, or a VRT that names other files than it may.
    """
    driver = DRIVERS.get(file.suffix.lower())
    if driver is None:
        raise DataError(f"{file}: not a raster of a known kind; known: {' '.join(DRIVERS)}")
    if check_regular(file) == 0:
        raise DataError(f"{file}: empty file (0 bytes); replace or remove it")
    if driver == "VRT":
        check_vrt(file)
    return _rasterio().open(file.absolute(), driver=driver)


def reprojected(
    x: Sequence[float], y: Sequence[float], source: str, target: str, place: object
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of one CRS in another.

    Args:
        place: what they are of, for messages.

    Raises:
        DataError: they are none on earth.
    """
    rasterio = _rasterio()
    from rasterio.warp import transform

    try:
        with rasterio.Env(**NO_NETWORK):
            moved_x, moved_y = map(np.asarray, transform(source, target, list(x), list(y)))
    except _gdal_errors():
        moved_x = moved_y = np.array([np.nan])
    if not (np.isfinite(moved_x).all() and np.isfinite(moved_y).all()):
        raise DataError(f"{place}: has coordinates outside the range of its CRS; correct the CRS or the transform")
    return moved_x, moved_y


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """GDAL for files that are written into a folder; its errors as a DataError of one line.

    Raises:
        DataError: nothing can be written there.
    """
    rasterio = _rasterio()
    try:
        with rasterio.Env(**NO_NETWORK):
            yield
    except (*_gdal_errors(), OSError) as error:
        cause = error.__cause__ or error
        if shutil.disk_usage(folder).free < LITTLE_SPACE:  # GDAL says what it could not do, seldom why
            cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        raise DataError.unwritable(folder, cause) from None


def same_crs(one: str, other: str) -> bool:
    """Whether two CRSs, as text, are one, however they are written."""
    rasterio = _rasterio()
    try:
        return one == other or rasterio.crs.CRS.from_wkt(one) == rasterio.crs.CRS.from_wkt(other)
    except _gdal_errors():
        return False


def linear_unit(crs: str) -> float | None:
    """Metres of a unit of a projected CRS; None for a geographic one."""
    rasterio = _rasterio()
    try:
        parsed = rasterio.crs.CRS.from_wkt(crs)
        return None if parsed.is_geographic else float(parsed.linear_units_factor[1])
    except _gdal_errors():
        return 1.0


@lru_cache(maxsize=1)
def _rasterio():
    try:
        import rasterio
        import rasterio.errors
        import rasterio.vrt
    except ImportError as error:
        raise CapabilityError(INSTALL) from error
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def _gdal_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises; errors of GDAL and PROJ pass through it under a base of their own."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError

    return RasterioError, CRSError, CPLE_BaseError
