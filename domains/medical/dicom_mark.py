"""Telling a DICOM file by its first bytes."""

from __future__ import annotations

from pathlib import Path


def has_dicom_mark(path: Path) -> bool:
    """Whether the file says "DICM" after its preamble, and is not the index of a medium."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False  # whoever opens it next says why it cannot be read
