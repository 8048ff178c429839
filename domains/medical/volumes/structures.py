"""Structures drawn on a DICOM series, in its geometry: of a segmentation object (SEG) by highdicom, of contours
(RTSTRUCT) by OpenCV's polygons. Label files beside a volume are read as volumes are.

Contours of a structure in one slice are filled by the even-odd rule, so that one inside another is a hole. Structures
may overlap, as a target lies in its organ: each is a channel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset
from pydicom.uid import RLELossless

from ....core.contracts import Item
from ....core.errors import DataError, LimitError, printable
from ..dicom_header import open_data_set, read_header
from ..nifti_slices import SLICES
from .geometry import LPS_TO_RAS, TOLERANCE_MM, as_volume, check_same_geometry
from .reading import read_volume
from .series import Slice, named_uid, ordered

if TYPE_CHECKING:
    from monai.data import MetaTensor

SEG, RTSTRUCT = KINDS = ("SEG", "RTSTRUCT")
FILLED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Kinds of contours that enclose anything."""
FINER, SUBPIXEL_BITS = 8, 8
"""Times the pixels along each side that polygons are drawn on, since OpenCV fills the pixels on their edge, too."""
OFF_SLICE = 0.1
"""Of the distance between slices, that a contour may lie beside one."""
AT_LEAST = 0.5
"""Of a fractional segmentation, that counts as inside."""


@dataclass(frozen=True)
class Structures:
    """Args:
    masks: (S, X, Y, Z) float32, 1 inside a structure, in the geometry of its series as `read_volume` gives it.
    names: S, as the file has them.
    """

    masks: MetaTensor
    names: tuple[str, ...]


def read_volume_labels(source: str | Path, volume: MetaTensor) -> MetaTensor:
    """The labels of a volume, of a NIfTI, MHA or NRRD file: (1, X, Y, Z) of whole numbers.

    Args:
        source: the file.
        volume: whose voxels are labelled, as `read_volume` gives it.

    Raises:
        DataError: as `read_volume`; values that are not whole numbers; or another geometry than the volume's.
    """
    labels = read_volume(source)
    check_same_geometry(volume, labels)
    if (labels != labels.round()).any():
        raise DataError(f"{source}: holds values between whole numbers, so it is no file of labels; give one")
    return labels


def outlined_by(path: Path) -> tuple[set[str], tuple[str, ...]]:
    """Hashes of the series that a SEG or RTSTRUCT file refers to, and the names of its structures; no pixels are read.

    Raises:
        DataError: the file is neither, or is damaged.
    """
    kind = _kind(path)
    data_set = open_data_set(path, stop_before_pixels=True)
    try:
        return _referred(kind, data_set), tuple(_known(kind, data_set))
    except Exception as error:  # as below
        raise _unreadable(path, kind, error) from None


def read_structures(
    source: str | Path, files: Sequence[Path], names: Sequence[str] | None = None, max_pixels: int = Item.MAX_PIXELS
) -> Structures:
    """The structures that a SEG or RTSTRUCT file draws on a series.

    Args:
        source: the file.
        files: of the series.
        names: which structures, in this order; by default all. A contour around the whole body costs as much as any.
        max_pixels: the masks of all together may have `nifti_slices.SLICES` times as many voxels.

    Raises:
        DataError: the file is neither, is damaged, draws on another series or another grid, or lacks a name.
    """
    path = Path(source)
    kind = _kind(path)
    slices, affine = ordered(files)
    data_set = open_data_set(path)
    try:
        referred = _referred(kind, data_set)
        if slices[0].series not in referred:
            told = ", ".join(sorted(series[:8] for series in referred)) or "none"
            raise DataError(
                f"{path}: refers to a series that is absent ({told}; {slices[0].path.parent} holds "
                f"{slices[0].series[:8]}); put it beside its own"
            )
        known = _known(kind, data_set)
        numbers = [_number(path, name, known) for name in (known if names is None else names)]
        voxels = len(slices) * slices[0].size[0] * slices[0].size[1] * len(numbers)
        if voxels > SLICES * max_pixels:
            raise LimitError.too_large(f"{path}: {len(numbers)} structures of {voxels} voxels", SLICES * max_pixels)
        read = _segmented if kind == SEG else _contoured
        masks = read(path, data_set, numbers, slices, affine)
    except DataError:
        raise
    except Exception as error:  # values converted at first use; their text may be personal and is not shown
        raise _unreadable(path, kind, error) from None
    return Structures(as_volume(masks, affine, path), tuple(known if names is None else names))


def _kind(path: Path) -> str:
    kind = read_header(path).modality
    if kind not in KINDS:
        raise DataError(f"{path}: neither a segmentation (SEG) nor contours (RTSTRUCT); give one of them")
    return kind


def _referred(kind: str, data_set: Dataset) -> set[str]:
    return _series_of_segmentation(data_set) if kind == SEG else _series_of_contours(data_set)


def _known(kind: str, data_set: Dataset) -> dict[str, int]:
    return _segments(data_set) if kind == SEG else _regions(data_set)


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable {kind} object ({type(error).__name__}); replace it")


def _number(path: Path, name: str, known: dict[str, int]) -> int:
    if name not in known:
        raise DataError(f"{path}: has no structure '{name}'; it has {', '.join(known) or 'none'}")
    return known[name]


def _named(pairs: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Name -> number; a name that occurs again has its number too."""
    names: dict[str, int] = {}
    for name, number in pairs:
        name = printable(name.strip()) or f"structure {number}"
        names[name if name not in names else f"{name} ({number})"] = number
    return names


# segmentation objects -------------------------------------------------------------------------------------------------


def _series_of_segmentation(data_set: Dataset) -> set[str]:
    return {named_uid(item.SeriesInstanceUID) for item in data_set.get("ReferencedSeriesSequence") or []}


def _segments(data_set: Dataset) -> dict[str, int]:
    return _named([(str(item.SegmentLabel), int(item.SegmentNumber)) for item in data_set.SegmentSequence])


def _segmented(
    path: Path, data_set: Dataset, numbers: Sequence[int], slices: Sequence[Slice], affine: np.ndarray
) -> np.ndarray:
    """(S, X, Y, Z), by the positions of the frames; slices without a frame are empty."""
    from highdicom import VolumeGeometry
    from highdicom.seg import Segmentation

    if read_header(path).is_encapsulated and data_set.file_meta.TransferSyntaxUID != RLELossless:
        raise DataError(f"{path}: a compressed segmentation; store it uncompressed, or in RLE")
    segments = Segmentation.from_dataset(data_set, copy=False).get_volume(segment_numbers=list(numbers))
    lps = (LPS_TO_RAS @ affine)[:, [2, 1, 0, 3]]  # highdicom counts slices, rows, columns
    grid = VolumeGeometry(lps, (len(slices), *slices[0].size), "PATIENT")
    try:
        masks = segments.match_geometry(grid, tol=TOLERANCE_MM).array  # (Z, Y, X, S)
    except RuntimeError:
        raise DataError(f"{path}: lies on another grid than its series; resample it to that") from None
    return (masks.transpose(3, 2, 1, 0) >= AT_LEAST).astype(np.float32)


# contours -------------------------------------------------------------------------------------------------------------


def _series_of_contours(data_set: Dataset) -> set[str]:
    return {
        named_uid(series.SeriesInstanceUID)
        for frame in data_set.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    }


def _regions(data_set: Dataset) -> dict[str, int]:
    return _named([(str(item.ROIName or ""), int(item.ROINumber)) for item in data_set.StructureSetROISequence])


def _contoured(
    path: Path, data_set: Dataset, numbers: Sequence[int], slices: Sequence[Slice], affine: np.ndarray
) -> np.ndarray:
    """(S, X, Y, Z), 1 where the centre of a voxel lies inside the contours of its slice."""
    import cv2

    to_voxels = np.linalg.inv(LPS_TO_RAS @ affine)
    rows, columns = slices[0].size
    masks = np.zeros((len(numbers), len(slices), rows, columns), dtype=np.uint8)
    contours = {
        int(item.ReferencedROINumber): item.get("ContourSequence") or [] for item in data_set.ROIContourSequence
    }
    for mask, number in zip(masks, numbers, strict=True):
        in_slice: dict[int, list[np.ndarray]] = {}
        for contour in contours.get(number, []):
            if contour.ContourGeometricType in FILLED:
                points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
                at = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]  # (n, 3) column, row, slice
                k = round(float(at[:, 2].mean()))
                if not 0 <= k < len(slices) or np.abs(at[:, 2] - k).max() > OFF_SLICE:
                    raise DataError(f"{path}: a contour lies in none of the slices of its series; draw it on them")
                in_slice.setdefault(k, []).append(np.round(at[:, :2] * FINER * 2**SUBPIXEL_BITS).astype(np.int32))
        for k, polygons in in_slice.items():
            finer = np.zeros((rows * FINER, columns * FINER), dtype=np.uint8)
            cv2.fillPoly(finer, polygons, 1, shift=SUBPIXEL_BITS)
            mask[k] = finer[::FINER, ::FINER]
    return masks.transpose(0, 3, 2, 1).astype(np.float32)
