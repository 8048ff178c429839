"""NIfTI volumes as a `Format`: slices along an anatomical axis, in one orientation, whatever the file's own is.

A slice is shown as radiologists see it: axial and coronal with the patient's right on the left, sagittal facing left,
superior or anterior at the top, pixels square. Only the slice is read where the file is not compressed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ...core.contracts.domain import Decoded
from ...core.data.formats import Format

SUFFIXES = (".nii", ".nii.gz")
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Axis name -> axis of a volume in RAS+ orientation that the slices are counted along."""

SUBJECT = re.compile(r"^sub-[A-Za-z0-9]+$")
GROUP_BYTES = 1 << 20


def nifti_format(
    axis: str = "axial", every: int = 1, central: float = 0.5, volume: int = 0, window: str | None = None
) -> Format:
    """The format, with the same choice of slices for all its files.

    Args:
        axis: "axial", "coronal" or "sagittal".
        every: every n-th slice is a sample.
        central: share of the slices, around the middle, that is used; the ends of a volume show little. One at least.
        volume: which volume of a 4-D file.
        window: as `intensity.check_window` gives it; None scales by the volume's percentiles 0.5 and 99.5.
    """

    def expand(path: Path) -> list[dict[str, Any]]:
        from .nifti_slices import check_volume, count_slices

        count = count_slices(path, AXES[axis])
        check_volume(path, volume)
        shared = {"axis": axis, "volume": volume, **({} if window is None else {"window": window})}
        return [{**shared, "slice": i} for i in chosen_slices(count, every, central)]

    return Format("NIfTI", SUFFIXES, load=_load, expand=expand, group=volume_group)


def chosen_slices(count: int, every: int, central: float) -> range:
    """Positions of every n-th slice of the central share of `count`."""
    kept = max(1, round(count * central))
    start = (count - kept) // 2
    return range(start + ((kept - 1) % every) // 2, start + kept, every)


def volume_group(path: Path) -> str:
    """What must not straddle splits: the BIDS subject where the path names one ("sub-01"), else this volume."""
    subject = next((part for part in reversed(path.absolute().parts[:-1]) if SUBJECT.match(part)), None)
    subject = subject or (path.name.split("_")[0] if SUBJECT.match(path.name.split("_")[0]) else None)
    if subject:
        return "patient-" + hashlib.sha256(subject.encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return "volume-" + hashlib.sha256(file.read(GROUP_BYTES)).hexdigest()[:16]


def _load(path: Path, decode: dict[str, Any]) -> Decoded:
    from .nifti_slices import load_slice

    return load_slice(path, decode)
