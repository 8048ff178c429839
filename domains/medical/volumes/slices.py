"""Slices of volumes, as they are shown: of a whole volume as the parts of one sample, or one alone.

A volume is turned to RAS and resampled by MONAI. Only the slices that a sample has are decoded of a DICOM series that
was acquired along the axis and whose grey levels do not depend on its values; other volumes are read whole, two at once
at most, however many threads decode.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.orientations import io_orientation

from ....core.contracts import Decoded, Item
from ....core.data import FileHashes, remember_by_file
from ....core.errors import DataError, LimitError
from ..dicom_header import read_header
from ..dicom_pixels import not_in_hounsfield, shown_range
from ..file_kinds import META_SUFFIXES, NRRD_SUFFIXES, VOLUME_SUFFIXES, chosen_slices
from ..intensity import MINMAX, ZSCORE, is_preset, robust_range, window_range
from ..nifti_slices import AXES, SLICES, as_shown, check_volume_size, count_slices
from .geometry import as_volume
from .itk_files import data_file_of, itk_header
from .reading import read_volume
from .series import Slice, ordered, read_slices, series_at

if TYPE_CHECKING:
    from monai.data import MetaTensor

READING, KEEPING = threading.Semaphore(2), threading.Lock()
OF_THE_VALUES = (MINMAX, ZSCORE)
"""Windows that depend on all values of a volume."""


def part_positions(count: int, every: int, central: float, most: int) -> list[int]:
    """Which of `count` slices are parts: of every n-th of the central share the middles of as many equal stretches, or
    all where there are no more.

    Args:
        most: how many; 0 for all.
    """
    chosen = chosen_slices(count, every, central)
    if not 0 < most < len(chosen):
        return list(chosen)
    return [chosen[int((number + 0.5) * len(chosen) / most)] for number in range(most)]


def part_numbers(path: Path, decode: Mapping[str, Any]) -> list[int]:
    """Which slices along the axis `load_parts` gives, counted from 0 in RAS order; [] of a volume that is resampled, or
    of a series that was acquired along another axis.

    Raises:
        DataError: as `read_volume`.
    """
    axis = AXES[decode.get("axis", "axial")]
    if "spacing" in decode:
        return []
    if path.name.lower().endswith(VOLUME_SUFFIXES):
        return _positions(count_along(path, axis, int(decode.get("max_pixels", Item.MAX_PIXELS))), decode)
    slices, affine = ordered(series_at(path))
    return _positions(len(slices), decode) if _file_axis(path, affine, axis) == 2 else []


def count_along(path: Path, axis: int, max_pixels: int) -> int:
    """Slices of a NIfTI, MHA or NRRD volume along an axis of the RAS orientation, by its header.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    if not path.name.lower().endswith(META_SUFFIXES + NRRD_SUFFIXES):
        check_volume_size(path, axis, max_pixels)
        return count_slices(path, axis)
    shape, affine = itk_header(path, max_pixels)
    return shape[_file_axis(path, affine, axis)]


def digest_of(path: Path) -> str | None:
    """Of the bytes of all files of a volume in the order of its slices; None of a volume in a single file."""
    files = volume_files(path)
    return None if files == [path] else FileHashes.of_files(files)


def volume_files(path: Path) -> list[Path]:
    """All files that a volume consists of: those of its DICOM series in the order of the slices, a header's and its
    data, or one.

    Raises:
        DataError: no whole series, or a header without its data.
    """
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        return list(dict.fromkeys(each.path for each in ordered(series_at(path))[0]))
    apart = path.name.lower().endswith(META_SUFFIXES + NRRD_SUFFIXES) and (data_file := data_file_of(path)) != path
    return [path, data_file] if apart else [path]


def load_parts(path: str | Path, decode: Mapping[str, Any]) -> Decoded:
    """The slices of a volume that are the parts of a sample, in RAS order, all of one size.

    Args:
        path: a volume's file, or one of a DICOM series, which stands for all.
        decode: "axis", "every", "central" and "slices" choose them (`part_positions`); "window" as of single slices, of
            a series without one the window of its middle slice; "spacing" in millimetres, to which all axes are
            resampled; "volume" of a 4-D file; "max_pixels" of a slice.

    Returns:
        (T, H, W, 3) float32 in 0..1.

    Raises:
        DataError: as `read_volume`, or a window in Hounsfield units on a series of another modality than CT.
    """
    path, axis = Path(path), AXES[decode.get("axis", "axial")]
    window, max_pixels = decode.get("window"), int(decode.get("max_pixels", Item.MAX_PIXELS))
    shown, inverse = None, False
    with READING:
        if path.name.lower().endswith(VOLUME_SUFFIXES):
            volume = read_volume(path, {"volume": 0, **decode})
            whole = True
        else:
            slices, affine = ordered(series_at(path))
            shown, inverse = _shown_of_series(slices, window)
            whole = window in OF_THE_VALUES or (window is None and shown is None) or "spacing" in decode
            whole = whole or _file_axis(path, affine, axis) != 2
            slices = slices if whole else _chosen(slices, affine, decode)
            volume = as_volume(read_slices(slices, max_pixels), affine, path.parent)
        volume = _turned(volume, decode.get("spacing"), max_pixels)
    values = volume.numpy()  # (C, X, Y, Z)
    if shown is None:
        shown = robust_range(values) if window is None else window_range(window, values)
    chosen = _positions(values.shape[1 + axis], decode) if whole else range(values.shape[1 + axis])
    zooms = np.linalg.norm(volume.affine.numpy()[:3, :3], axis=0)
    parts = np.stack([_plane(path, values, axis, at, zooms, shown, max_pixels) for at in chosen])
    return 1.0 - parts if inverse else parts


def load_one(path: str | Path, decode: Mapping[str, Any]) -> Decoded:
    """One slice of an MHA or NRRD volume, (H, W, 3) float32 in 0..1.

    Args:
        path: the file.
        decode: "slice", its index along "axis" in RAS order; "window", "volume" and "max_pixels" as of `load_parts`.

    Raises:
        DataError: as `read_volume`, or there is no such slice.
    """
    path, axis, index = Path(path), AXES[decode.get("axis", "axial")], int(decode["slice"])
    window, max_pixels = decode.get("window"), int(decode.get("max_pixels", Item.MAX_PIXELS))
    with KEEPING:  # threads that want slices of one volume wait for the one that reads it
        values, zooms = _kept(path, int(decode.get("volume", 0)), max_pixels)
    if not 0 <= index < (count := values.shape[1 + axis]):
        raise DataError(f"{path}: has no slice {index}, only 0 to {count - 1}; correct the slice")
    shown = robust_range(values) if window is None else window_range(window, values)
    return _plane(path, values, axis, index, zooms, shown, max_pixels)


@remember_by_file(size=2)
def _kept(path: Path, volume: int, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of a volume in RAS, and its spacing."""
    turned = _turned(read_volume(path, {"volume": volume, "max_pixels": max_pixels}), None, max_pixels)
    return turned.numpy(), np.linalg.norm(turned.affine.numpy()[:3, :3], axis=0)


def _positions(count: int, decode: Mapping[str, Any]) -> list[int]:
    return part_positions(count, decode.get("every", 1), decode.get("central", 1.0), decode.get("slices", 0))


def _chosen(slices: list[Slice], affine: np.ndarray, decode: Mapping[str, Any]) -> list[Slice]:
    """Of a series along its own axis those that are parts, still in the order of its affine."""
    positions = _positions(len(slices), decode)
    upwards = io_orientation(affine)[2, 1] > 0
    return [slices[at] for at in (positions if upwards else sorted(len(slices) - 1 - at for at in positions))]


def _shown_of_series(slices: list[Slice], window: str | None) -> tuple[tuple[float, float] | None, bool]:
    """The values that become 0 and 1, None where all values of the series say; and whether bright is shown dark."""
    middle = slices[len(slices) // 2]
    own, inverse = shown_range(middle.path, middle.frame)
    if window is None:
        return own, inverse
    modality = read_header(middle.path).modality
    if is_preset(window) and modality not in ("CT", ""):
        raise not_in_hounsfield(middle.path.parent, window, modality)
    return (None if window in OF_THE_VALUES else window_range(window, np.empty(0))), inverse


def _file_axis(path: Path, affine: np.ndarray, axis: int) -> int:
    """Which axis of a file is `axis` of the RAS orientation."""
    along = io_orientation(affine)[:, 0]
    if axis not in along:
        raise DataError(f"{path}: its affine gives no orientation; correct its header")
    return int(np.flatnonzero(along == axis)[0])


def _turned(volume: MetaTensor, spacing: float | None, max_pixels: int) -> MetaTensor:
    """In RAS orientation, and with voxels of so many millimetres.

    Raises:
        DataError: the affine gives no orientation, or there would be too many voxels.
    """
    from monai.transforms.spatial.array import Orientation, Spacing

    _file_axis(volume.meta["filename_or_obj"], volume.affine.numpy(), 0)
    volume = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(volume)
    if spacing is None:
        return volume
    zooms = np.linalg.norm(volume.affine.numpy()[:3, :3], axis=0)
    voxels = np.prod(np.array(volume.shape[1:]) * zooms / spacing)
    if voxels > SLICES * max_pixels:
        place = f"{volume.meta['filename_or_obj']}: at --spacing {spacing:g} a volume of {voxels:.0f} voxels"
        raise LimitError.too_large(place, SLICES * max_pixels)
    return Spacing((spacing,) * 3, mode="bilinear", padding_mode="border")(volume)


def _plane(
    path: Path,
    values: np.ndarray,
    axis: int,
    at: int,
    zooms: np.ndarray,
    shown: tuple[float, float],
    max_pixels: int,
) -> Decoded:
    """(H, W, 3) of values (C, X, Y, Z), colours as levels of 0 to 255."""
    plane = np.moveaxis(values.take(at, axis=1 + axis), 0, -1)  # (x, y, C)
    kept = [float(zoom) for other, zoom in enumerate(zooms) if other != axis]
    if plane.shape[-1] == 3:
        return as_shown(path, plane / 255, (kept[0], kept[1]), shown, max_pixels)
    return as_shown(path, plane[..., 0], (kept[0], kept[1]), shown, max_pixels)
