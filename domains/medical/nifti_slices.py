"""One slice of a NIfTI volume: found in canonical orientation, read, scaled to 0..1, pixels made square.

A slice is shown as radiologists see it: axial and coronal with the patient's right on the left, sagittal facing left,
superior or anterior at the top, pixels square. Only the slice is read where the file is not compressed; a compressed
volume is unpacked once, into memory or, a larger one, into the cache. The limit of pixels is one of a slice, since no
more is decoded at once; a volume may have `SLICES` times as many voxels.
"""

from __future__ import annotations

import gzip
import logging
import math
import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from ...core.contracts import Decoded, Item
from ...core.data import FileHashes, remember_by_file
from ...core.errors import DataError, LimitError, shortened
from ...core.runtime import cache_folder, caching, check_regular
from .intensity import (
    MINMAX,
    SAMPLED_VALUES,
    ZSCORE,
    robust_range,
    scale_to_unit,
    to_rgb,
    window_range,
    zscore_range,
)

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Axis name -> axis of a volume in RAS+ orientation that the slices are counted along."""
KEEPING = threading.Lock()
KEPT_VOLUMES = 2
MOST_PACKED = 1032
"""Times that gzip makes anything smaller at most."""
KEPT_BYTES = 512 << 20
"""A decompressed volume up to this size is kept while its slices are read; a larger one is unpacked into the cache."""
MOST_UNPACKED, CHUNK = 16 << 30, 1 << 20
SLICES = 10
"""Times the pixels that a slice may have."""
LARGE_VOXELS, SLAB_VOXELS = 1 << 26, 1 << 24
"""Of a volume from which the range of values is found a slab at a time, and of a slab."""


def load_slice(path: str | Path, decode: dict[str, Any]) -> Decoded:
    """One slice as an image.

    Args:
        path: the file.
        decode: "axis" ("axial", ...), "slice" (index along that axis in RAS+ orientation), "volume" (of a 4-D file) and
            "window", all but "slice" optional.

    Returns:
        (H, W, 3) float32 in 0..1, or uint8 for RGB volumes.

    Raises:
        DataError: no NIfTI file, damaged, cut short, NaN or infinity in the volume, or no such slice or volume.
    """
    path, volume = Path(path), int(decode.get("volume", 0))
    max_pixels = int(decode.get("max_pixels", Item.MAX_PIXELS))
    check_volume_size(path, AXES[decode.get("axis", "axial")], max_pixels)
    axis, index, window = AXES[decode.get("axis", "axial")], int(decode["slice"]), decode.get("window")
    count = count_slices(path, axis)
    if not 0 <= index < count:
        raise DataError(f"{path}: has no slice {index}, only 0 to {count - 1}; correct the slice")
    plane, zooms = _read_plane(path, axis, index, volume)  # (x, y) or (x, y, 3), RAS+
    return as_shown(path, plane, zooms, (0.0, 1.0) if plane.ndim == 3 else _range(path, volume, window), max_pixels)


def as_shown(
    path: Path, plane: np.ndarray, zooms: tuple[float, float], values: tuple[float, float], max_pixels: int
) -> Decoded:
    """A plane (x, y) or in colour (x, y, 3), RAS+, as radiologists see it: rows downwards, pixels square.

    Args:
        path: for messages.
        zooms: millimetres between voxels along x and y.
        values: which become 0 and 1; not of colours.
        max_pixels: a stretched plane with more is refused.
    """
    plane = plane.swapaxes(0, 1)[::-1, ::-1]
    if plane.ndim == 3:
        return np.ascontiguousarray(plane)
    return to_rgb(_square_pixels(path, scale_to_unit(plane, *values), zooms[::-1], max_pixels))


def read_nifti(path: Path, volume: int | None, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels in the file's own order, (C, X, Y, Z), and the affine (4, 4) from them to RAS+ millimetres.

    Args:
        path: the file.
        volume: of a 4-D file; None gives each as a channel. Colours are channels too.
        max_pixels: as of a slice.

    Raises:
        DataError: as `load_slice`.
    """
    check_volume_size(path, AXES["axial"], max_pixels)
    image = _open(path)
    shape = _shape_3d(path, image)
    if volume is not None:
        check_volume(path, volume)
        values = _read_volume(path, volume)[..., None]  # (X, Y, Z, 1)
    else:
        total = math.prod(image.shape)
        if total > SLICES * max_pixels:
            raise LimitError.too_large(f"{path}: volumes of {total} voxels", SLICES * max_pixels)
        values = _read(path, image, [slice(None)] * len(image.shape)).reshape(*shape, -1)  # (X, Y, Z, T)
    if values.dtype.fields:
        values = np.stack([values[..., 0][name] for name in ("R", "G", "B")], axis=-1).astype(np.float32)
    _check_finite(path, int(values.size - np.isfinite(values).sum()))
    return np.moveaxis(values, -1, 0), image.affine


def nifti_header(path: Path) -> tuple[tuple[int, int, int], int, np.ndarray]:
    """(X, Y, Z) in the file's own order, the values of each voxel, and the affine (4, 4) to RAS+ millimetres.

    Raises:
        DataError: no NIfTI file.
    """
    image = _open(path)
    colours = len(image.get_data_dtype().fields or "-")
    return _shape_3d(path, image), (image.shape[3] if len(image.shape) > 3 else 1) * colours, image.affine


def read_slab(path: Path, start: int, stop: int) -> np.ndarray:
    """Axial slices `start` to `stop` of the RAS+ orientation, all volumes of a 4-D file: (C, Z, Y, X) float32.

    A packed file of more than `SLAB_VOXELS` voxels is unpacked into the cache.

    Raises:
        DataError: as `load_slice`.
    """
    image = _open(path)
    shape, orientation, across = _shape_3d(path, image), io_orientation(image.affine), _file_axis(path, image, 2)
    whole = math.prod(image.shape)
    if _is_packed(path) and whole > SLAB_VOXELS:
        image = nibabel.load(_unpacked(path, image))
    where: list[Any] = [slice(None)] * len(image.shape)
    forward = orientation[across, 1] > 0
    where[across] = slice(start, stop) if forward else slice(shape[across] - stop, shape[across] - start)
    values = _read(path, image, where)
    if values.dtype.fields:
        values = np.stack([values[name] for name in ("R", "G", "B")], axis=-1).astype(np.float32)
    cut = [stop - start if axis == across else size for axis, size in enumerate(shape)]
    values = apply_orientation(values.reshape(*cut, -1), orientation)  # (x, y, z, C)
    _check_finite(path, int(values.size - np.isfinite(values).sum()))
    return values.transpose(3, 2, 1, 0)


def check_volume_size(path: Path, axis: int, max_pixels: int) -> None:
    """Refuse a file whose header claims larger slices than are decoded, or more voxels than it has bytes for.

    Raises:
        DataError: that, or no NIfTI file.
    """
    voxels, least = _claimed(path)
    if voxels > SLICES * max_pixels:
        raise LimitError.too_large(f"{path}: a volume of {voxels} voxels", SLICES * max_pixels)
    if (pixels := voxels // count_slices(path, axis)) > max_pixels:
        raise LimitError.too_large(f"{path}: slices of {pixels} pixels", max_pixels)
    if least > path.stat().st_size:
        raise DataError(f"{path}: cut short (its header claims more voxels than it holds); copy it again")


@remember_by_file(size=4096)
def _claimed(path: Path) -> tuple[int, int]:
    """Voxels of one volume, and the fewest bytes of a file that holds all volumes."""
    image = _open(path)
    voxels, volumes = math.prod(_shape_3d(path, image)), image.shape[3] if len(image.shape) > 3 else 1
    whole = voxels * volumes * image.get_data_dtype().itemsize + int(image.dataobj.offset)
    return voxels, whole // MOST_PACKED if _is_packed(path) else whole


@remember_by_file(size=4096)
def count_slices(path: Path, axis: int) -> int:
    """Slices along an axis of the RAS+ orientation.

    Raises:
        DataError: no NIfTI file.
    """
    image = _open(path)
    shape = _shape_3d(path, image)
    return shape[_file_axis(path, image, axis)]


@remember_by_file(size=4096)
def check_volume(path: Path, volume: int) -> None:
    """Refuse a file that cannot give whole slices. Volumes of whole numbers can hold no NaN and are not read for it.

    Raises:
        DataError: no such volume, or NaN or infinity in it.
    """
    image = _open(path)
    count = image.shape[3] if len(image.shape) > 3 else 1
    if not 0 <= volume < count:
        raise DataError(f"{path}: has no volume {volume}, only 0 to {count - 1}; correct the option volume")
    if np.issubdtype(image.get_data_dtype(), np.floating):
        _volume_ranges(path, volume)


def _range(path: Path, volume: int, window: str | None) -> tuple[float, float]:
    if window not in (None, MINMAX, ZSCORE):
        return window_range(window, np.empty(0))
    return _volume_ranges(path, volume)[window]


@remember_by_file(size=4096)
def _volume_ranges(path: Path, volume: int) -> dict[str | None, tuple[float, float]]:
    """Window that depends on the values of one volume -> its range; None: the robust one."""
    image = _open(path)
    if math.prod(_shape_3d(path, image)) > LARGE_VOXELS and not _is_kept(path, image):
        return _range_of_slabs(path, image, volume)
    values = _kept_volume(path, volume) if _is_kept(path, _open(path)) else _read_volume(path, volume)
    _check_finite(path, int((~np.isfinite(values)).sum()))
    return {None: robust_range(values), **{name: window_range(name, values) for name in (MINMAX, ZSCORE)}}


def _range_of_slabs(path: Path, image, volume: int) -> dict[str | None, tuple[float, float]]:
    """The same of a volume that is not held in memory, its percentiles of evenly spaced values."""
    shape = _shape_3d(path, image)
    thickness = max(1, SLAB_VOXELS // math.prod(shape[:2]))
    step = max(1, math.prod(shape) // SAMPLED_VALUES)
    sampled, unusable, ends = [], 0, []
    moments = np.zeros(3)  # of the values that are not 0: how many, their sum, and that of their squares
    for start in range(0, shape[2], thickness):
        where = [slice(None), slice(None), slice(start, start + thickness)][: len(image.shape)]
        values = _read(path, image, [*where, *_volume_index(image, volume)]).reshape(-1)
        unusable += int((~np.isfinite(values)).sum())
        ends += [values.min(), values.max()]
        sampled.append(values[::step].copy())
        moments += np.count_nonzero(values), values.sum(dtype=np.float64), np.square(values, dtype=np.float64).sum()
    _check_finite(path, unusable)
    low, high = float(min(ends)), float(max(ends))
    mean, square = moments[1:] / max(moments[0], 1)
    return {
        None: robust_range(np.concatenate([*sampled, [low, high]])),
        MINMAX: (low, high),
        ZSCORE: zscore_range(mean, math.sqrt(max(square - mean**2, 0.0))),
    }


def _check_finite(path: Path, unusable: int) -> None:
    if unusable:
        raise DataError(f"{path}: {unusable} voxels are NaN or infinity; replace them by a number or remove the file")


def _read_plane(path: Path, axis: int, index: int, volume: int) -> tuple[np.ndarray, tuple[float, float]]:
    """The slice as (x, y[, 3]) in RAS+ order, and the size of its pixels."""
    image = _open(path)
    shape = _shape_3d(path, image)
    orientation = io_orientation(image.affine)
    across = _file_axis(path, image, axis)
    position = index if orientation[across, 1] > 0 else shape[across] - 1 - index
    where: list[Any] = [slice(None)] * 3
    where[across] = position
    if _is_kept(path, image):
        plane = _kept_volume(path, volume)[tuple(where)]
    else:
        plane = _read(path, image, [*where[: len(image.shape)], *_volume_index(image, volume)])
        plane = plane.reshape([n for a, n in enumerate(shape) if a != across])
    if plane.dtype.fields:
        plane = np.stack([plane[name] for name in ("R", "G", "B")], axis=-1)  # (x, y, 3)
    kept = [a for a in range(3) if a != across]
    for position_in_plane, a in enumerate(kept):
        if orientation[a, 1] < 0:
            plane = np.flip(plane, position_in_plane)
    zooms = [*image.header.get_zooms()[:3], 1.0, 1.0][:3]
    if orientation[kept[0], 0] > orientation[kept[1], 0]:
        plane, kept = plane.swapaxes(0, 1), kept[::-1]
    return plane, (abs(float(zooms[kept[0]])), abs(float(zooms[kept[1]])))


def _is_kept(path: Path, image) -> bool:
    """Whether a volume is decompressed once for all its slices."""
    return _is_packed(path) and 4 * math.prod(_shape_3d(path, image)) <= KEPT_BYTES


def _kept_volume(path: Path, volume: int) -> np.ndarray:
    with KEEPING:  # threads that want slices of one volume wait for the one that reads it
        return _remembered_volume(path, volume)


@remember_by_file(size=KEPT_VOLUMES)
def _remembered_volume(path: Path, volume: int) -> np.ndarray:
    return _read_volume(path, volume)


def _read_volume(path: Path, volume: int) -> np.ndarray:
    """(X, Y, Z) in the file's own order."""
    image = _open(path)
    part = [slice(None)] * min(3, len(image.shape))
    return _read(path, image, [*part, *_volume_index(image, volume)]).reshape(_shape_3d(path, image))


def _volume_index(image, volume: int) -> list[int]:
    return [volume, *[0] * (len(image.shape) - 4)] if len(image.shape) > 3 else []


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _read(path: Path, image, where: list[Any]) -> np.ndarray:
    try:
        if _is_packed(path) and not _is_kept(path, image):
            image = nibabel.load(_unpacked(path, image))
        values = np.asanyarray(image.dataobj[tuple(where)])
    except DataError:
        raise
    except Exception as error:  # gzip, zlib and nibabel raise many types on damaged files
        raise DataError(
            f"{path}: voxels cannot be read: cut short or damaged ({type(error).__name__}); copy it again"
        ) from None
    if np.iscomplexobj(values):
        raise DataError(f"{path}: holds complex numbers, not intensities; store their magnitude")
    return values if values.dtype.fields else values.astype(np.float32, copy=False)


def _unpacked(path: Path, image) -> Path:
    """The file in the cache, decompressed: of a compressed one, each slice would be searched for from the start.

    Raises:
        LimitError: it unpacks to more than `MOST_UNPACKED` bytes. CacheError: the cache cannot be written.
    """
    size = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    if size > MOST_UNPACKED:
        raise LimitError(f"{path}: unpacks to {size:,} bytes, more than {MOST_UNPACKED:,}; unpack it with gunzip")
    target = cache_folder("arrays") / f"{FileHashes.of_file(path)}.nii"
    with KEEPING:
        if not target.is_file():
            with gzip.open(path) as packed, caching(target) as out:
                while size > 0 and (chunk := packed.read(min(CHUNK, size))):
                    size -= out.write(chunk)
                if size > 0:
                    raise EOFError("cut short")
    return target


def _open(path: Path):
    """The image, header read only; nibabel's remarks on odd headers are held back."""
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    check_regular(path)
    try:
        image = nibabel.load(path)
    except Exception as error:  # damaged headers make nibabel raise many types
        reason = f"not a readable NIfTI file ({type(error).__name__})"
        raise DataError(f"{path}: {reason}; replace or remove it") from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(f"{path}: a {type(image).__name__}, not a NIfTI volume; remove it")
    if image.affine is None or not np.isfinite(image.affine).all():
        raise DataError(f"{path}: its affine holds NaN or infinity, so its orientation is unknown; correct its header")
    return image


def _shape_3d(path: Path, image) -> tuple[int, int, int]:
    shape = image.shape
    if len(shape) < 2 or any(n != 1 for n in shape[4:]) or min(shape) < 1:
        raise DataError(f"{path}: has shape {shortened(tuple(shape))}; a volume (X, Y, Z) or (X, Y, Z, T) is needed")
    return (*shape[:3], 1)[:3]


def _file_axis(path: Path, image, axis: int) -> int:
    """Which axis of the file is `axis` of the RAS+ orientation; one that its affine flattens is none."""
    try:
        return int(np.flatnonzero(io_orientation(image.affine)[:, 0] == axis)[0])
    except (IndexError, ValueError, np.linalg.LinAlgError):
        raise DataError(f"{path}: its affine gives no orientation; correct its header") from None


def _square_pixels(path: Path, plane: np.ndarray, zooms: tuple[float, float], max_pixels: int) -> np.ndarray:
    """(H, W) stretched along its coarser side, so that shapes are true; sizes that differ by under 2 % stay."""
    height, width = zooms
    if not (0 < height < math.inf and 0 < width < math.inf) or 0.98 < height / width < 1.02:
        return plane
    fine = min(height, width)
    stretched = plane.shape[0] * height / fine * plane.shape[1] * width / fine
    if not stretched <= max_pixels:
        raise LimitError.too_large(f"{path}: with square pixels {stretched:.0f} pixels", max_pixels)
    size = (max(1, round(plane.shape[0] * height / fine)), max(1, round(plane.shape[1] * width / fine)))
    from monai.transforms.spatial.array import Resize

    return np.clip(np.asarray(Resize(size, mode="bilinear")(plane[None])[0], dtype=np.float32), 0.0, 1.0)
