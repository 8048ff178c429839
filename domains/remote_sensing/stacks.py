"""Bands of one place in files of their own: "place_B02.tif" beside "place_B03.tif", and Sentinel-2's .SAFE folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ...core.errors import DataError
from ...core.runtime import check_regular, version_of
from .gdal import DRIVERS
from .vrt import xml_root

BAND = re.compile(
    r"^(?P<place>.*?)[_\-. ]*(?P<band>(?:SR_|TOA_|ST_)?B(?:0?[1-9]|1[0-2]|8A)|VV|VH|HH|HV"
    r"|red|green|blue|nir|rededge[123]?|swir(?:1|2|16|22)?|coastal|pan)(?:_(?P<metres>10|20|60)m)?$",
    re.IGNORECASE,
)
PRODUCT_FILES = ("mtd_msil1c.xml", "mtd_msil2a.xml")
MOST_BYTES = 64 << 20
SWIR = {"swir1": "swir16", "swir2": "swir22"}


def band_of(file: Path) -> str | None:
    """The band that a file's name ends with ("B04", "red"), or None."""
    match = BAND.match(file.stem)
    if match is None:
        return None
    band = match["band"]
    band = re.sub(r"^(SR|TOA|ST)_", "", band, flags=re.IGNORECASE)
    return SWIR.get(band.lower(), band.upper() if band.upper().startswith(("B0", "B1", "B8A")) else band)


def raster_files(path: Path) -> list[Path]:
    """All files of the raster that a file stands for: it alone, its bands, or those of a Sentinel-2 product.

    Args:
        path: a raster, or the MTD_MSIL1C.xml or MTD_MSIL2A.xml of a .SAFE folder.

    Raises:
        DataError: a product without images.
    """
    if path.name.lower() in PRODUCT_FILES:
        return _of_product(path)
    return next((files for files in _stacks(path.parent) if path in files), [path])


def stands_for_its_raster(path: Path) -> bool:
    """Whether a file is the one that its raster is called by: the first of its bands, and no part of a product."""
    if path.name.lower() in PRODUCT_FILES:
        return True
    if any(parent.suffix.lower() == ".safe" and _product_file(parent) for parent in path.parents):
        return False
    return raster_files(path)[0] == path


def raster_of_folder(folder: Path) -> Path | None:
    """The file that stands for a folder which is one raster: a .SAFE product, or the bands of one place alone, as
    BigEarthNet has them."""
    if folder.suffix.lower() == ".safe":
        return _product_file(folder)
    stacks = _stacks(folder)
    return stacks[0][0] if len(stacks) == 1 else None


def safe_scaling(files: Sequence[Path]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Scales and offsets of the bands of a Sentinel-2 product, as its metadata say; None for other files.

    Reflectance is (value + offset) / quantification; offsets are there since processing baseline 04.00.
    """
    folder = next((parent for parent in files[0].parents if parent.suffix.lower() == ".safe"), None)
    product = None if folder is None else _product_file(folder)
    if product is None:
        return None
    root = xml_root(product, "metadata of a product", "get it again", MOST_BYTES)
    numbers = [node.text for node in root.iter() if node.tag in ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE")]
    try:
        quantification = float(numbers[0])
        offsets = {
            node.get("band_id"): float(node.text)
            for node in root.iter()
            if node.tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
        }
    except (IndexError, TypeError, ValueError):
        raise DataError(f"{product}: gives no quantification value; get the product again") from None
    if not quantification > 0:
        raise DataError(f"{product}: has the quantification value {quantification}; get the product again")
    of_band = [offsets.get(str(ORDER.index(band_of(file))), 0.0) if band_of(file) in ORDER else 0.0 for file in files]
    return (1 / quantification,) * len(files), tuple(offset / quantification for offset in of_band)


ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Of Sentinel-2's bands, by which its metadata number them."""


def _of_product(path: Path) -> list[Path]:
    """One file per band, the finest that there is."""
    check_regular(path)
    finest: dict[str, tuple[int, Path]] = {}
    for file in sorted(path.parent.glob("GRANULE/*/IMG_DATA/**/*.jp2")):
        match = BAND.match(file.stem)
        if match is not None and (band := band_of(file)) in ORDER:
            metres = int(match["metres"] or 0)
            if band not in finest or metres < finest[band][0]:
                finest[band] = (metres, file)
    if not finest:
        raise DataError(f"{path}: no band images in GRANULE/*/IMG_DATA beside it; unpack the product whole")
    return [finest[band][1] for band in ORDER if band in finest]


def _stacks(folder: Path) -> list[list[Path]]:
    """Groups of files in a folder that are bands of one place."""
    try:
        return _stacks_at(folder, version_of(folder.stat()))
    except OSError:
        return []


@lru_cache(maxsize=4096)
def _stacks_at(folder: Path, version: tuple[int, ...]) -> list[list[Path]]:
    places: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for file in sorted(folder.iterdir()):
        match = BAND.match(file.stem) if file.suffix.lower() in DRIVERS else None
        if match is not None:
            places[match["place"], file.suffix.lower()].setdefault(band_of(file).lower(), file)
    return [list(bands.values()) for bands in places.values() if len(bands) > 1]


def _product_file(folder: Path) -> Path | None:
    return next((file for file in sorted(folder.glob("MTD_MSIL*.xml")) if file.name.lower() in PRODUCT_FILES), None)
