"""What a DICOM file's header says, as far as it is needed: frames, kind, and whose it is, told by a hash only.

No value of a header reaches a message, a log or a warning, because it may name the patient: pydicom's own warnings and
log records, which quote values, are held back, and errors say what was wrong in words of this module.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
)

from ...core.data import remember_by_file
from ...core.errors import DataError, shortened
from ...core.runtime import check_regular
from .file_kinds import has_dicom_mark

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
HEADER_KEYWORDS = (
    "Modality", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID",
    "SeriesInstanceUID", "ViewPosition", "ImageLaterality", "Laterality", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "SamplesPerPixel", *PIXEL_KEYWORDS,
)  # fmt: skip
NO_PATIENT = frozenset({"", "0", "anon", "anonymous", "anonymized", "anonymised", "none", "n/a", "unknown", "removed"})
DEFER_BYTES = 1024
MOST_FRAMES = 1_000_000
FRAGMENT_BYTES = 32
"""Of the least that a compressed frame takes."""
MOST_INFLATED, DEFLATED_CHUNK = 1 << 30, 1 << 16
"""Bytes of a deflated file."""
SILENT = logging.CRITICAL + 1
PYDICOM_MODULES = r"pydicom(\.|$)"


@dataclass(frozen=True)
class DicomHeader:
    """Args:
    frames: images in the file, 0 where it holds no pixels.
    pixels: of one of them.
    modality: "CT", "MR", ..., or "".
    patient: short hash of the patient's id (else name and birth date, else study), or None.
    is_whole_read: whether pixels can only be reached by reading the whole file: it is deflated, or lacks a meta header.
    is_encapsulated: whether pixels are compressed.
    is_jpeg2000_colour: whether as JPEG 2000 in colour, whose decoder takes 16 bytes per pixel.
    study: short hash of the study's UID, or None.
    view: "PA", "LL", ..., or "".
    laterality: "L", "R", ..., or "".
    """

    frames: int
    pixels: int
    modality: str
    patient: str | None
    is_whole_read: bool
    is_encapsulated: bool
    is_jpeg2000_colour: bool
    study: str | None = None
    view: str = ""
    laterality: str = ""


@remember_by_file(size=65536)
def read_header(path: Path) -> DicomHeader:
    """The header of a file.

    Raises:
        DataError: not a DICOM file.
    """
    data_set = open_data_set(path, defer_size=DEFER_BYTES, specific_tags=list(HEADER_KEYWORDS))
    try:
        modality = str(data_set.get("Modality") or "").strip().upper()
        has_pixels = any(keyword in data_set for keyword in PIXEL_KEYWORDS) and bool(data_set.get("Rows"))
        is_marked = has_dicom_mark(path)
        if not has_pixels and not is_marked:
            raise DataError(f"{path}: not a DICOM file, despite its name; replace or remove it")
        frames = max(1, int(data_set.get("NumberOfFrames") or 1)) if has_pixels else 0
        modality = modality if modality.isalnum() and len(modality) <= 16 else ""
        syntax = data_set.file_meta.get("TransferSyntaxUID")
        deflated = getattr(syntax, "is_deflated", False)
        encapsulated = bool(getattr(syntax, "is_transfer_syntax", False) and syntax.is_encapsulated)
        pixels = _pixels(path, data_set, frames, deflated, encapsulated)
        is_colour = syntax in JPEG2000TransferSyntaxes and int(data_set.get("SamplesPerPixel") or 1) > 1
        is_whole_read = deflated or not is_marked
        shown = _study(data_set), _word(data_set, "ViewPosition"), _word(data_set, "ImageLaterality", "Laterality")
        return DicomHeader(frames, pixels, modality, _patient(data_set), is_whole_read, encapsulated, is_colour, *shown)
    except DataError:
        raise
    except Exception as error:  # pydicom converts values at first use and raises many types on damaged ones
        raise DataError(f"{path}: damaged DICOM header ({type(error).__name__}); replace or remove it") from None


def open_data_set(path: Path, **options) -> pydicom.Dataset:
    """`pydicom.dcmread`, silent, also for old files without the "DICM" mark.

    Raises:
        DataError: not a DICOM file.
    """
    hush_pydicom()
    check_regular(path)
    try:
        _check_deflated(path)
        try:
            return pydicom.dcmread(path, **options)
        except InvalidDicomError:
            return _with_syntax(pydicom.dcmread(path, force=True, **options))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or 'read error'}); check it") from None
    except Exception as error:
        reason = f"not a readable DICOM file ({type(error).__name__})"
        raise DataError(f"{path}: {reason}; replace or remove it") from None


def hush_pydicom() -> None:
    """Hold back pydicom's warnings and log records. Called before each use, as filters may have been set since."""
    logging.getLogger("pydicom").setLevel(SILENT)
    action, _, _, module, _ = warnings.filters[0] if warnings.filters else (None,) * 5
    if action != "ignore" or getattr(module, "pattern", "") != PYDICOM_MODULES:  # filters set later go before ours
        warnings.filterwarnings("ignore", module=PYDICOM_MODULES)


def _pixels(path: Path, data_set: pydicom.Dataset, frames: int, deflated: bool, encapsulated: bool) -> int:
    """Pixels of a frame.

    Raises:
        DataError: the file has not the bytes of as many frames as it claims.
    """
    pixels = int(data_set.get("Rows") or 0) * int(data_set.get("Columns") or 0)
    if frames == 0 or deflated:
        return pixels
    bits = 1 if encapsulated else int(data_set.get("BitsAllocated") or 1) * int(data_set.get("SamplesPerPixel") or 1)
    least = FRAGMENT_BYTES * frames if encapsulated else frames * pixels * bits // 8 // 2  # 4:2:2 stores two thirds
    if frames > MOST_FRAMES or least > path.stat().st_size:
        claim = f"claims {shortened(frames)} frames of {pixels} pixels, more than it can hold"
        raise DataError(f"{path}: {claim}; copy it again or remove it")
    return pixels


def _check_deflated(path: Path) -> None:
    """Refuse a deflated file that would fill the memory: pydicom inflates the whole of it."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            file.seek(0)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflate, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflate.eof and (chunk := file.read(DEFLATED_CHUNK)):
            while chunk and not inflate.eof:
                length += len(inflate.decompress(chunk, DEFLATED_CHUNK))
                chunk = inflate.unconsumed_tail
                if length > MOST_INFLATED:
                    raise DataError(
                        f"{path}: inflates to more than {MOST_INFLATED:,} bytes; store it without deflation"
                    )


def _with_syntax(data_set: pydicom.Dataset) -> pydicom.Dataset:
    """Files without a meta header are uncompressed; their byte order is what was found in reading them."""
    if "TransferSyntaxUID" not in data_set.file_meta:
        implicit, little = data_set.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return data_set


def _study(data_set: pydicom.Dataset) -> str | None:
    uid = str(data_set.get("StudyInstanceUID") or "").strip()
    return "study-" + hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else None


def _word(data_set: pydicom.Dataset, *keywords: str) -> str:
    """The first of some attributes that is there; "" for what is no word of a fixed vocabulary."""
    value = next((text for each in keywords if (text := str(data_set.get(each) or "").strip())), "")
    return value if value.isalnum() and len(value) <= 16 else ""


def _patient(data_set: pydicom.Dataset) -> str | None:
    def text(keyword: str) -> str:
        value = str(data_set.get(keyword) or "").strip()
        return "" if value.lower() in NO_PATIENT else value

    name, born = text("PatientName"), text("PatientBirthDate")
    if text("PatientID"):
        key = ("id", text("PatientID"), text("IssuerOfPatientID"))
    elif name and born:
        key = ("name", name, born)
    else:
        study = text("StudyInstanceUID") or text("SeriesInstanceUID")
        if not study:
            return None
        key = ("study", study)
    return "patient-" + hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]
