"""MHA, MHD and NRRD files, read by SimpleITK once their headers were found to name no file elsewhere."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....core.contracts import Item
from ....core.data import stays_inside
from ....core.errors import DataError, LimitError
from ....core.runtime import check_regular, read_start
from ..file_kinds import META_SUFFIXES, NRRD_SUFFIXES
from ..nifti_slices import MOST_PACKED, SLICES
from .geometry import ras_affine

if TYPE_CHECKING:
    import SimpleITK

META, NRRD = "MetaImageIO", "NrrdImageIO"
READERS = {**dict.fromkeys(META_SUFFIXES, META), **dict.fromkeys(NRRD_SUFFIXES, NRRD)}
"""Suffix -> ITK's reader, so that no other one looks at the file."""
HEADER_BYTES = 1 << 16
DATA_FILE = {
    META: re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*(.*?)[ \t\r]*$", re.MULTILINE | re.IGNORECASE),
    NRRD: re.compile(rb"^data ?file:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE | re.IGNORECASE),
}


def read_itk(path: Path, volume: int | None = None, max_pixels: int = Item.MAX_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (C, X, Y, Z) float32 and the affine (4, 4) from them to RAS millimetres.

    Args:
        volume: of several values per voxel, or of a fourth dimension; None gives each as a channel.

    Raises:
        DataError: no such file or volume, damaged or cut short, NaN or infinity, complex numbers, more than four
            dimensions, or too large.
    """
    import SimpleITK

    reader = _opened(path, max_pixels)
    try:
        values = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        raise _unreadable(path) from None
    if np.iscomplexobj(values):
        raise DataError(f"{path}: holds complex numbers, not intensities; store their magnitude")
    dimensions = reader.GetDimension()
    values = values.reshape(*values.shape[:dimensions], -1).transpose(*range(dimensions)[::-1], dimensions)
    values = values.reshape(*[*values.shape[: min(dimensions, 3)], 1][:3], -1)  # (X, Y, Z, C)
    if volume is not None:
        if not 0 <= volume < (count := values.shape[-1]):
            raise DataError(f"{path}: has no volume {volume}, only 0 to {count - 1}; correct the option volume")
        values = values[..., volume : volume + 1]
    values = np.moveaxis(values, -1, 0).astype(np.float32)
    if unusable := int(values.size - np.isfinite(values).sum()):
        raise DataError(f"{path}: {unusable} voxels are NaN or infinity; replace them by a number or remove the file")
    return values, _affine(reader)


def itk_header(path: Path, max_pixels: int = Item.MAX_PIXELS) -> tuple[tuple[int, int, int], np.ndarray]:
    """(X, Y, Z) and the affine of a file.

    Raises:
        DataError: as `read_itk`, as far as its header shows.
    """
    reader = _opened(path, max_pixels)
    x, y, z = [*reader.GetSize(), 1][:3]
    return (x, y, z), _affine(reader)


def channels_of(path: Path, max_pixels: int = Item.MAX_PIXELS) -> int:
    """Values of each voxel, those of a fourth dimension among them; errors as `itk_header`."""
    reader = _opened(path, max_pixels)
    return reader.GetNumberOfComponents() * math.prod(reader.GetSize()[3:])


def _opened(path: Path, max_pixels: int) -> SimpleITK.ImageFileReader:
    """A reader that has read the header."""
    import SimpleITK

    data_file = data_file_of(path)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise _unreadable(path) from None
    _check_claims(path, data_file, reader.GetSize(), reader.GetNumberOfComponents(), max_pixels)
    return reader


def _unreadable(path: Path) -> DataError:
    return DataError(f"{path}: not a readable {path.suffix[1:].upper()} file; replace or remove it")


def _affine(reader: SimpleITK.ImageFileReader) -> np.ndarray:
    dimensions, kept = reader.GetDimension(), min(reader.GetDimension(), 3)
    directions = np.eye(3)
    directions[:kept, :kept] = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:kept, :kept]
    return ras_affine(directions, np.array([*reader.GetSpacing(), 1.0][:3]), np.array([*reader.GetOrigin(), 0.0][:3]))


def data_file_of(path: Path) -> Path:
    """The file that holds the voxels: this one, or another in its folder, which the header names.

    Raises:
        DataError: there is no such file, it lies in another folder, or the voxels lie in several files.
    """
    check_regular(path)
    reader = READERS[path.suffix.lower()]
    head = read_start(path, HEADER_BYTES)
    if reader == NRRD:
        head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    named = DATA_FILE[reader].search(head)
    name = "" if named is None else named[1].decode("utf-8", "replace")
    if name.upper() == "LOCAL" or (named is None and reader == NRRD):
        return path
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise DataError(f"{path}: its header does not name one file of voxels; store the volume in a single file")
    file = path.parent / name
    if not stays_inside(file, path.parent):
        raise DataError(f"{path}: its voxels lie in another folder ({Path(name).name}); put that file beside it")
    if not file.is_file():
        raise DataError(f"{path}: its voxels are missing ({Path(name).name}); copy that file too")
    return file


def _check_claims(path: Path, data_file: Path, size: tuple[int, ...], components: int, max_pixels: int) -> None:
    """Refuse what is too large, or cannot be in so few bytes, before memory is taken for it."""
    voxels = math.prod(size) * components
    if not 2 <= len(size) <= 4 or min(size) < 1:
        raise DataError(f"{path}: has {len(size)} dimensions; a volume (X, Y, Z) or (X, Y, Z, T) is needed")
    if voxels > SLICES * max_pixels:
        raise LimitError.too_large(f"{path}: a volume of {voxels} voxels", SLICES * max_pixels)
    if voxels > MOST_PACKED * data_file.stat().st_size:
        raise DataError(f"{path}: cut short (its header claims more voxels than it holds); copy it again")
