"""A DICOM series as a volume: its slices in the order of their positions, evenly spaced, or told why they are not.

Positions are those of Image Position and Orientation (PS3.3 C.7.6.2), of multi-frame files those of their functional
groups (C.7.6.16). No value of a header but numbers of the geometry reaches a message; a series is named by the start of
a hash of its UID.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from ....core.contracts import Item
from ....core.data import remember_by_file, visible
from ....core.errors import DataError, LimitError
from ..dicom_header import open_data_set, read_header
from ..dicom_pixels import measured_frame
from ..file_kinds import is_dicom
from ..nifti_slices import SLICES
from .geometry import ras_affine

NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "FID"})
"""Modalities of what lies beside a series, and is made of it."""
GEOMETRY = (
    "SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns",
    "SliceThickness", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
MACROS = {
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
}
UNIT_TOLERANCE = 1e-4
"""Between the cosines of two orientations, which headers round."""
GAP_TOLERANCE, GAP_ROUNDING_MM = 0.02, 0.01
"""Share of the usual gap between slices, and millimetres of rounded positions, that a gap may differ by."""
ASIDE = 0.1
"""Share of the usual gap that a slice may lie beside the line of all."""


@dataclass(frozen=True)
class Slice:
    """One frame in space, in LPS.

    Args:
        path: its file.
        frame: of the file, from 0.
        series: hash of its series' UID.
        size: (rows, columns).
        orientation: (6,) unit vectors along a row and along a column; empty where the header has none.
        position: (3,) the centre of the first pixel; empty likewise.
        spacing: (between rows, between columns) in millimetres; empty likewise.
        thickness: in millimetres.
    """

    path: Path
    frame: int
    series: str
    size: tuple[int, int]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.name if self.frame == 0 else f"{self.path.name} frame {self.frame}"


def series_at(path: Path) -> list[Path]:
    """The files of the one series that a folder holds, or that a file is of, in its folder.

    Raises:
        DataError: no DICOM file, several series in the folder, or one that cannot be read.
    """
    found = all_series(path if path.is_dir() else path.parent)
    if not path.is_dir():
        own = next((files for files in found.values() if path in files), None)
        if own is None:
            read_header(path)  # says why, where it is no DICOM file
            raise DataError(f"{path}: holds no image of a series; give one that does")
        return own
    if not found:
        raise DataError(f"{path}: no DICOM file with pixels in it; give the folder of a series")
    _check_one(path, {series: len(files) for series, files in found.items()})
    return next(iter(found.values()))


def stands_for(path: Path) -> Path | None:
    """The first file, by name, of the series that a file is a slice of, in its folder; None of what was made of a
    series and holds no image. A file that cannot be read stands for itself, and whoever opens it says why."""
    try:
        if not _has_images(path):
            return None if read_header(path).modality in NO_IMAGES else path
        series = slices_of(path)[0].series
    except DataError:
        return path
    return _listed_series(path.parent).get(series, [path])[0]


def all_series(folder: Path) -> dict[str, list[Path]]:
    """Hash of a series' UID -> its files in a folder, sorted by name. Objects that were made of a series, and files
    without pixels or that cannot be read, are none.

    Raises:
        DataError: the folder cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(entry.path) for entry in visible(folder)):
        if path.is_file() and is_dicom(path):
            with suppress(DataError):
                if _has_images(path):
                    found.setdefault(slices_of(path)[0].series, []).append(path)
    return found


@remember_by_file(size=256)
def _listed_series(folder: Path) -> dict[str, list[Path]]:
    """As `all_series`, until a file comes or goes: each file of a folder asks which one stands for it."""
    return all_series(folder)


def _has_images(path: Path) -> bool:
    header = read_header(path)
    return header.frames > 0 and header.modality not in NO_IMAGES


def read_series(files: Sequence[Path], max_pixels: int = Item.MAX_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Measured values (1, X, Y, Z) float32 and the affine (4, 4) from them to RAS millimetres.

    Args:
        files: in any order.
        max_pixels: of a slice; a volume may have `SLICES` times as many voxels.

    Raises:
        DataError: as `ordered`, or pixels that cannot be decoded.
    """
    slices, affine = ordered(files)
    return read_slices(slices, max_pixels), affine


def read_slices(slices: Sequence[Slice], max_pixels: int = Item.MAX_PIXELS) -> np.ndarray:
    """(1, X, Y, Z) float32, the measured values of slices in their order.

    Raises:
        DataError: pixels that cannot be decoded, or too many.
    """
    rows, columns = slices[0].size
    if (voxels := rows * columns * len(slices)) > SLICES * max_pixels:
        raise LimitError.too_large(f"{slices[0].path.parent}: a volume of {voxels} voxels", SLICES * max_pixels)
    values = np.empty((len(slices), rows, columns), dtype=np.float32)
    for number, each in enumerate(slices):
        values[number] = measured_frame(each.path, each.frame, max_pixels)
    return values.transpose(2, 1, 0)[None]


def ordered(files: Iterable[Path]) -> tuple[list[Slice], np.ndarray]:
    """The slices of a series by their positions along the normal, and the affine (4, 4) of (column, row, slice) to RAS
    millimetres.

    Raises:
        DataError: no file with pixels, files of several series, two sizes, orientations or spacings, a slice that is
            missing, two at one position, or no position at all.
    """
    slices = [each for path in files if _has_images(path) for each in slices_of(path)]
    if not slices:
        raise DataError("none of the files of the series has pixels; give those of a series of images")
    place = slices[0].path.parent
    _check_one(place, Counter(each.series for each in slices))
    lacking = next((each for each in slices if () in (each.orientation, each.position, each.spacing)), None)
    if lacking is not None:
        raise DataError(
            f"{lacking.path}: its header gives no position in space, so it is no slice of a volume; read its images "
            "one by one"
        )
    first = slices[0]
    for each in slices:
        _check_like(place, first, each)
    along_row, along_column = np.reshape(first.orientation, (2, 3))
    normal = np.cross(along_row, along_column)
    if abs(np.linalg.norm(normal) - 1) > 1e-3 or min(first.spacing) <= 0:
        raise DataError(
            f"{first.path}: its rows and columns are not perpendicular, or take no space; correct its header or remove "
            "it"
        )
    slices.sort(key=lambda each: float(normal @ np.array(each.position)))
    step = _step(place, slices, normal)
    row_spacing, column_spacing = first.spacing
    spacing = np.array([column_spacing, row_spacing, np.linalg.norm(step)])
    directions = np.stack([along_row, along_column, step / spacing[2]], axis=1)
    return slices, ras_affine(directions, spacing, np.array(slices[0].position))


def _check_one(place: Path, counts: dict[str, int]) -> None:
    if len(counts) > 1:
        named = ", ".join(f"{series[:8]} of {count}" for series, count in counts.items())
        raise DataError(f"{place}: files of {len(counts)} series ({named}); put each series into a folder of its own")


def _check_like(place: Path, first: Slice, other: Slice) -> None:
    """Raise the DataError of a slice that does not lie in a stack with the first."""
    facts = (
        ("sizes", first.size, other.size, 0.0),
        ("orientations", first.orientation, other.orientation, UNIT_TOLERANCE),
        ("pixel spacings", first.spacing, other.spacing, 1e-3 * min(first.spacing)),
    )
    for name, ours, theirs, tolerance in facts:
        if np.abs(np.subtract(ours, theirs)).max() > tolerance:
            raise DataError(
                f"{place}: slices of two {name}, {_in_words(ours)} ({first.name}) and {_in_words(theirs)} "
                f"({other.name}); keep those of one stack"
            )


def _step(place: Path, slices: Sequence[Slice], normal: np.ndarray) -> np.ndarray:
    """(3,) from each slice to the next, in millimetres; not along the normal where a gantry was tilted."""
    positions = np.array([each.position for each in slices])  # (n, 3)
    if len(slices) == 1:
        return normal * slices[0].thickness
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    if gaps.min() <= GAP_ROUNDING_MM:
        at = int(gaps.argmin())
        raise DataError(
            f"{place}: two slices at one position, {slices[at].name} and {slices[at + 1].name}; keep one of each (a "
            "series over time is several volumes)"
        )
    tolerance = GAP_TOLERANCE * usual + GAP_ROUNDING_MM
    at = int(np.abs(gaps - usual).argmax())
    if abs(gaps[at] - usual) > tolerance:
        between = f"between {slices[at].name} and {slices[at + 1].name}"
        times = gaps[at] / usual
        if round(times) >= 2 and abs(gaps[at] - round(times) * usual) <= round(times) * tolerance:
            lacks = "a slice is" if round(times) == 2 else f"{round(times) - 1} slices are"
            raise DataError(
                f"{place}: {lacks} missing {between}, {gaps[at]:.3f} mm apart where others are {usual:.3f} mm; copy "
                "the whole series again"
            )
        raise DataError(
            f"{place}: slices at two spacings, {usual:.3f} mm and {gaps[at]:.3f} mm ({between}); keep those of one "
            "stack"
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    aside = np.abs(positions - positions[0] - np.arange(len(slices))[:, None] * step).max(axis=1)
    if (worst := int(aside.argmax())) and aside[worst] > ASIDE * usual + GAP_ROUNDING_MM:
        raise DataError(
            f"{place}: {slices[worst].name} lies {aside[worst]:.3f} mm beside the line of the others; keep those of "
            "one stack"
        )
    return step


def _in_words(values: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


@remember_by_file(size=65536)
def slices_of(path: Path) -> tuple[Slice, ...]:
    """The frames of a file, where they lie.

    Raises:
        DataError: not a DICOM file, or a damaged one.
    """
    frames = read_header(path).frames
    data_set = open_data_set(path, stop_before_pixels=True, specific_tags=list(GEOMETRY))
    try:
        return tuple(_slice(path, frame, frames, data_set) for frame in range(frames))
    except Exception as error:  # values converted at first use; their text may be personal and is not shown
        raise DataError(f"{path}: damaged DICOM header ({type(error).__name__}); replace or remove it") from None


def _slice(path: Path, frame: int, frames: int, data_set: Dataset) -> Slice:
    series = named_uid(data_set.get("SeriesInstanceUID"))
    per_frame = data_set.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(data_set.get("SharedFunctionalGroupsSequence") or []), *per_frame[frame : frame + 1]]
    own: dict[str, Any] = {k: data_set.get(k) for keywords in MACROS.values() for k in keywords} if frames == 1 else {}
    for group in groups:
        for macro, keywords in MACROS.items():
            for item in group.get(macro) or []:
                own |= {keyword: item[keyword].value for keyword in keywords if keyword in item}
    return Slice(
        path,
        frame,
        series,
        (int(data_set.Rows), int(data_set.Columns)),
        _numbers(own.get("ImageOrientationPatient"), 6),
        _numbers(own.get("ImagePositionPatient"), 3),
        _numbers(own.get("PixelSpacing"), 2),
        float(own.get("SliceThickness") or 1.0),
    )


def named_uid(uid: Any) -> str:
    """How a series is named: UIDs hold dates and numbers of scanners, and lead to patients."""
    return hashlib.sha256(str(uid or "").encode()).hexdigest()[:16]


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    """So many finite numbers, or none."""
    numbers = tuple(float(value) for value in values or ())
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()
