"""Kinds of medical files, how their names end, and how a DICOM file without an ending is told."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import DataError
from ...core.runtime import read_start

DICOM, NIFTI, ITK = "DICOM", "NIfTI", "MHA/NRRD"
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
META_SUFFIXES, NRRD_SUFFIXES = (".mha", ".mhd"), (".nrrd", ".nhdr")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *META_SUFFIXES, *NRRD_SUFFIXES)
"""Of files that hold a whole volume."""
PLANES = ("sagittal", "coronal", "axial")
"""The anatomical planes that a volume may be cut into."""


def has_dicom_mark(path: Path) -> bool:
    """Whether the file says "DICM" after its preamble, and is not the index of a medium."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        return read_start(path, 132)[128:] == b"DICM"
    except DataError:
        return False  # whoever opens it next says why it cannot be read


def is_dicom(path: Path) -> bool:
    """By its ending, else by its mark; names that are dotted numbers, as UIDs are, have no ending."""
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    return (not path.suffix or path.suffix[1:].isdigit()) and has_dicom_mark(path)


def chosen_slices(count: int, every: int, central: float) -> range:
    """Positions of every n-th slice of the central share of `count`."""
    kept = max(1, round(count * central))
    start = (count - kept) // 2
    return range(start + ((kept - 1) % every) // 2, start + kept, every)
