"""Telling a DICOM file by its first bytes."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import DataError
from ...core.runtime import read_start


def has_dicom_mark(path: Path) -> bool:
    """Whether the file says "DICM" after its preamble, and is not the index of a medium."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        return read_start(path, 132)[128:] == b"DICM"
    except DataError:
        return False  # whoever opens it next says why it cannot be read
