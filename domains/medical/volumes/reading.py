"""A volume of any kind that is read, with its geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.contracts import Item
from ..file_kinds import META_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES
from .geometry import as_volume

if TYPE_CHECKING:
    from monai.data import MetaTensor


def read_volume(source: str | Path | Sequence[Path], decode: Mapping[str, Any] | None = None) -> MetaTensor:
    """A volume with its affine from voxel indices to RAS millimetres.

    Args:
        source: a NIfTI, MHA, MHD or NRRD file; a folder of one DICOM series, a file of it, which stands for all files
            of its series in its folder, or the list of its files, in any order.
        decode: "volume", of a 4-D file, by default each is a channel; "max_pixels", of a slice.

    Returns:
        (C, X, Y, Z) float32, the axes in the file's order, a series' slices along Z; values as stored, rescaled as the
        header says (Hounsfield units of a CT). MONAI's transforms take it as it is.

    Raises:
        DataError: it cannot be read; NaN or infinity in it; or the files are no whole, evenly spaced series
            (`series.py`).
    """
    decode = decode or {}
    max_pixels = int(decode.get("max_pixels", Item.MAX_PIXELS))
    volume = None if decode.get("volume") is None else int(decode["volume"])
    if not isinstance(source, (str, Path)):
        from .series import read_series

        return as_volume(*read_series([Path(file) for file in source], max_pixels), Path(source[0]).parent)
    path = Path(source)
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES) and not path.is_dir():
        from ..nifti_slices import read_nifti

        return as_volume(*read_nifti(path, volume, max_pixels), path)
    if name.endswith(META_SUFFIXES + NRRD_SUFFIXES) and not path.is_dir():
        from .itk_files import read_itk

        return as_volume(*read_itk(path, volume, max_pixels), path)
    from .series import read_series, series_at

    return as_volume(*read_series(series_at(path), max_pixels), path)
