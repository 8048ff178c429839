"""DICOM files as a `Format`: recognised by suffix or by the "DICM" mark, one sample a frame, grouped by patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.contracts.domain import Decoded
from ...core.data.formats import Format

SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")


def dicom_format(window: str | None = None) -> Format:
    """The format, with a window for all its files (as `intensity.check_window` gives it; None: what each file says)."""

    def expand(path: Path) -> list[dict[str, Any]]:
        from .dicom_header import read_header
        from .dicom_pixels import check_has_pixels

        frames = read_header(path).frames
        check_has_pixels(path, frames)
        shared = {} if window is None else {"window": window}
        return [shared] if frames == 1 else [{"frame": i, **shared} for i in range(frames)]

    return Format("DICOM", SUFFIXES, load=_load, expand=expand, group=_patient, recognise=_recognise)


def _load(path: Path, decode: dict[str, Any]) -> Decoded:
    from .dicom_pixels import load_dicom

    return load_dicom(path, decode)


def _patient(path: Path) -> str | None:
    from .dicom_header import read_header

    return read_header(path).patient


def _recognise(path: Path) -> bool:
    from .dicom_mark import has_dicom_mark

    return has_dicom_mark(path)
