"""DICOM files and volumes as a `Format` each: how they are told, expanded into samples and grouped.

A DICOM file is told by its suffix or by the "DICM" mark; each frame is a sample; the group is the patient. A volume is
cut into slices along an anatomical axis, in one orientation, whatever the file's own is. Where whole volumes are
samples, the files of a DICOM series are one, which the first of them by name stands for. Neither pydicom nor nibabel is
imported before a file is read.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Any

from ...core.contracts import Decoded, Item
from ...core.data import Format
from ...core.runtime import read_start
from .file_kinds import (
    DICOM,
    DICOM_SUFFIXES,
    ITK,
    META_SUFFIXES,
    NIFTI,
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    VOLUME_SUFFIXES,
    chosen_slices,
    has_dicom_mark,
)

SUBJECT = re.compile(r"^sub-[A-Za-z0-9]+$")
GROUP_BYTES = 1 << 20


def dicom_format(window: str | None = None, max_pixels: int = Item.MAX_PIXELS) -> Format:
    """The format.

    Args:
        window: for all its files (as `intensity.check_window` gives it; None: what each file says).
        max_pixels: a file whose frames have more is refused.
    """

    def expand(path: Path) -> list[dict[str, Any]]:
        from .dicom_header import read_header
        from .dicom_pixels import check_size

        header = read_header(path)
        check_size(path, header, max_pixels)
        shared = {} if window is None else {"window": window}
        return [shared] if header.frames == 1 else [{"frame": i, **shared} for i in range(header.frames)]

    return Format(
        DICOM,
        DICOM_SUFFIXES,
        load=_load_dicom,
        expand=expand,
        group=_patient,
        recognise=has_dicom_mark,
        max_pixels=max_pixels,
    )


def _load_dicom(path: Path, decode: dict[str, Any]) -> Decoded:
    from .dicom_pixels import load_dicom

    return load_dicom(path, decode)


def _patient(path: Path, name: str) -> str | None:
    from .dicom_header import read_header

    return read_header(path).patient


def nifti_format(
    axis: str = "axial",
    every: int = 1,
    central: float = 0.5,
    volume: int = 0,
    window: str | None = None,
    max_pixels: int = Item.MAX_PIXELS,
) -> Format:
    """The format, with the same choice of slices for all its files.

    Args:
        axis: "axial", "coronal" or "sagittal".
        every: every n-th slice is a sample.
        central: share of the slices, around the middle, that is used; the ends of a volume show little. At least one.
        volume: which volume of a 4-D file.
        window: as `intensity.check_window` gives it; None scales by the volume's percentiles 0.5 and 99.5.
        max_pixels: a volume with larger slices is refused, or with ten times as many voxels.
    """

    def expand(path: Path) -> list[dict[str, Any]]:
        from .nifti_slices import AXES, check_volume, check_volume_size, count_slices

        check_volume_size(path, AXES[axis], max_pixels)
        count = count_slices(path, AXES[axis])
        check_volume(path, volume)
        shared = {"axis": axis, "volume": volume, **({} if window is None else {"window": window})}
        return [{**shared, "slice": i} for i in chosen_slices(count, every, central)]

    return Format(NIFTI, NIFTI_SUFFIXES, load=_load_nifti, expand=expand, group=volume_group, max_pixels=max_pixels)


def itk_format(
    axis: str = "axial",
    every: int = 1,
    central: float = 0.5,
    volume: int = 0,
    window: str | None = None,
    max_pixels: int = Item.MAX_PIXELS,
) -> Format:
    """MHA, MHD and NRRD volumes in slices, as `nifti_format` has them."""

    def expand(path: Path) -> list[dict[str, Any]]:
        from .nifti_slices import AXES
        from .volumes.slices import count_along, digest_of

        count, digest = count_along(path, AXES[axis], max_pixels), digest_of(path)
        shared = {"axis": axis, "volume": volume, **_known(window=window, digest=digest)}
        return [{**shared, "slice": at} for at in chosen_slices(count, every, central)]

    def load(path: Path, decode: dict[str, Any]) -> Decoded:
        from .volumes.slices import load_one

        return load_one(path, decode)

    suffixes = META_SUFFIXES + NRRD_SUFFIXES
    return Format(ITK, suffixes, load=load, expand=expand, group=volume_group, max_pixels=max_pixels)


def whole_volumes(max_pixels: int = Item.MAX_PIXELS, **cut: Any) -> tuple[Format, ...]:
    """Formats of which each volume is one sample and its slices are the parts.

    Args:
        cut: "axis", "every", "central", "slices", "volume", "window" and "spacing" of `volumes.slices.load_parts`; None
            counts as not given.
    """
    cut = _known(**cut)

    def expand(path: Path) -> list[dict[str, Any]]:
        from .nifti_slices import AXES
        from .volumes.slices import count_along, digest_of

        if path.name.lower().endswith(VOLUME_SUFFIXES):
            count_along(path, AXES[cut["axis"]], max_pixels)
        return [{**cut, **_known(digest=digest_of(path))}]

    def load(path: Path, decode: dict[str, Any]) -> Decoded:
        from .volumes.slices import load_parts

        return load_parts(path, decode)

    def of_series(path: Path) -> Path | None:
        from .volumes.series import stands_for

        return stands_for(path)

    def of_folder(folder: Path) -> Path | None:
        from .volumes.series import all_series

        found = list(all_series(folder).values())
        return found[0][0] if len(found) == 1 else None

    shared: dict[str, Any] = {"load": load, "expand": expand, "max_pixels": max_pixels}
    series = {"recognise": has_dicom_mark, "group": _patient, "whole": of_series, "of_folder": of_folder}
    kinds = ((NIFTI, NIFTI_SUFFIXES), (ITK, META_SUFFIXES + NRRD_SUFFIXES))
    files = (Format(name, suffixes, group=volume_group, **shared) for name, suffixes in kinds)
    return Format(DICOM, DICOM_SUFFIXES, **shared, **series), *files


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def volume_group(path: Path, name: str) -> str:
    """What must not straddle splits: the BIDS subject where the path names one ("sub-01"), else this volume.

    Args:
        path: the file.
        name: its path within the set; folders above that are of no account.
    """
    subject = next((part for part in reversed(PurePosixPath(name).parts[:-1]) if SUBJECT.match(part)), None)
    subject = subject or (path.name.split("_")[0] if SUBJECT.match(path.name.split("_")[0]) else None)
    if subject:
        return "patient-" + hashlib.sha256(subject.encode()).hexdigest()[:16]
    return "volume-" + hashlib.sha256(read_start(path, GROUP_BYTES)).hexdigest()[:16]


def _load_nifti(path: Path, decode: dict[str, Any]) -> Decoded:
    from .nifti_slices import load_slice

    return load_slice(path, decode)
