"""Virtual rasters (VRT), which name other files: only those in their own folder, and only TIFF and JPEG 2000 files.

GDAL opens whatever a VRT names: any file of the machine, an address on the network, a program text. So the text is
judged before GDAL sees it, and what is not plainly harmless is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from ...core.data import stays_inside
from ...core.errors import DataError, shortened
from ...core.runtime import check_regular, read_start

MOST_BYTES = 16 << 20
KINDS = {"VRTDataset": ("",), "VRTRasterBand": ("", "VRTSourcedRasterBand")}
"""Element -> the subclasses of it that only copy, scale and place pixels of other files."""
SOURCES = frozenset({"SimpleSource", "ComplexSource", "AveragedSource"})
HARMLESS = SOURCES | {
    *("VRTDataset", "VRTRasterBand", "SRS", "GeoTransform", "Metadata", "MDI", "ColorInterp", "NoDataValue", "Scale"),
    *("Offset", "Description", "UnitType", "CategoryNames", "Category", "ColorTable", "Entry", "Histograms"),
    "HistItem",
    *("SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "ScaleOffset", "ScaleRatio", "NODATA"),
    *("UseMaskBand", "Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "MaskBand", "BlockXSize", "BlockYSize"),
    *("HideNoDataValue", "HistMin", "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate", "HistCounts"),
    *("ColorTableComponent", "LUT", "OverviewList", "GCPList", "GCP", "NoDataFromMaskSource"),
}
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""Of TIFF, BigTIFF and JPEG 2000 files."""


def check_vrt(path: Path) -> list[Path]:
    """The files that a VRT names.

    Raises:
        DataError: it is no VRT, it has a part that could do more than place pixels, or it names anything but TIFF and
            JPEG 2000 files in its own folder.
    """
    root, named = xml_root(path, "a VRT", "give the files that it names"), []
    for element in root.iter():
        subclass = element.get("subClass", "")
        if element.tag not in HARMLESS or subclass not in KINDS.get(element.tag, ("",)):
            what = shortened(subclass or element.tag)
            raise DataError(f"{path}: a VRT with '{what}', which is not read; write its pixels to a GeoTIFF first")
        if element.tag == "SourceFilename":
            named.append(_named_file(path, element))
    if root.tag != "VRTDataset" or not named:
        raise DataError(f"{path}: a VRT that names no file; make it again")
    return list(dict.fromkeys(named))


def xml_root(path: Path, kind: str, cure: str, most: int = MOST_BYTES) -> ElementTree.Element:
    """The root of an XML file.

    Args:
        kind, cure: what the file is, and what helps where it is none, for messages.
        most: bytes that it may have.

    Raises:
        DataError: it cannot be read, is too large, is no XML, or declares entities, which could expand without end.
    """
    if check_regular(path) > most:
        raise DataError(f"{path}: {kind} of more than {most >> 20} MB; {cure}")
    text = read_start(path, most)
    if re.search(rb"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise DataError(f"{path}: {kind} with XML entities of its own, which are not read; {cure}")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not {kind} ({shortened(str(error))}); {cure}") from None


def _named_file(path: Path, element: ElementTree.Element) -> Path:
    name = (element.text or "").strip()
    if re.search(r"^/vsi|^[a-z0-9+_.-]{2,}:|[<>\0]", name, re.IGNORECASE):
        raise DataError(f"{path}: names '{shortened(name)}', which is not a file in its folder; copy the file there")
    file = path.parent / name if element.get("relativeToVRT") == "1" else Path(name)
    if not file.is_absolute() and element.get("relativeToVRT") != "1":
        raise DataError(f"{path}: names '{shortened(name)}' without relativeToVRT; make it again beside its files")
    if not stays_inside(file, path.parent):
        raise DataError(f"{path}: names '{shortened(name)}', outside its folder; copy the file beside it")
    check_regular(file, "copy the file beside the VRT that names it")
    if not read_start(file, 12).startswith(STARTS):
        raise DataError(f"{path}: names '{shortened(name)}', which is not a TIFF or JPEG 2000 file; convert it")
    return file
