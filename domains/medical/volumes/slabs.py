"""A volume read some axial slices at a time, in one orientation: what a computer without much memory can work through.

NIfTI files are read slab by slab; other kinds are read whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation

from ....core.contracts import Item
from ....core.errors import DataError
from ..formats import META_SUFFIXES, NIFTI_SUFFIXES, NRRD_SUFFIXES
from ..nifti_slices import AXES, SLAB_VOXELS, check_volume_size, nifti_header, read_slab
from .geometry import Grid, check_same_grid
from .reading import read_volume


def grid_of(path: Path, max_pixels: int = Item.MAX_PIXELS) -> Grid:
    """Where the voxels of a volume lie, in the file's own order; by the header, where that is enough.

    Raises:
        DataError: the file cannot be read, or is too large.
    """
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES) and not path.is_dir():
        check_volume_size(path, AXES["axial"], max_pixels)
        size, channels, affine = nifti_header(path)
        return Grid(path, size, np.asarray(affine, dtype=np.float64), channels)
    if name.endswith(META_SUFFIXES + NRRD_SUFFIXES) and not path.is_dir():
        from . import itk_files

        size, affine = itk_files.itk_header(path, max_pixels)
        return Grid(path, size, affine, itk_files.channels_of(path, max_pixels))
    from .series import ordered, series_at

    slices, affine = ordered(series_at(path))
    rows, columns = slices[0].size
    return Grid(path, (columns, rows, len(slices)), affine)


class Slabs:
    """The channels of a volume, from one file or several, in RAS+ orientation with axial slices first.

    Args:
        files: of channels of one volume.

    Attributes:
        grid: of the first file.
        shape: (C, Z, Y, X).
        spacing: millimetres along Z, Y and X.
        affine: (4, 4) of (x, y, z) in RAS+ order to millimetres.

    Raises:
        DataError: a file cannot be read, or lies on another grid than the first.
    """

    def __init__(self, files: Sequence[str | Path], max_pixels: int = Item.MAX_PIXELS):
        grids = [grid_of(Path(file), max_pixels) for file in files]
        for other in grids[1:]:
            check_same_grid(grids[0], other)
        self.files, self.grid, self.max_pixels = [grid.path for grid in grids], grids[0], max_pixels
        try:
            self.orientation = io_orientation(self.grid.affine)
            self.affine = self.grid.affine @ inv_ornt_aff(self.orientation, self.grid.size)
        except (ValueError, np.linalg.LinAlgError):
            raise DataError(f"{self.grid.path}: its affine gives no orientation; correct its header") from None
        size, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
        for axis, across in enumerate(self.orientation[:, 0].astype(int)):
            size[across], spacing[across] = self.grid.size[axis], float(self.grid.spacing[axis])
        self.shape = (sum(grid.channels for grid in grids), *size[::-1])
        self.spacing = (spacing[2], spacing[1], spacing[0])
        self._whole: dict[Path, np.ndarray] = {}

    def read(self, start: int, stop: int) -> np.ndarray:
        """(C, stop - start, Y, X) float32.

        Raises:
            DataError: damaged files, NaN or infinity in them.
        """
        return np.concatenate([self._read(file, start, stop) for file in self.files])

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """The slabs, each with its first slice."""
        depth = max(1, SLAB_VOXELS // int(np.prod([self.shape[0], *self.shape[2:]])))
        for start in range(0, self.shape[1], depth):
            yield start, self.read(start, min(start + depth, self.shape[1]))

    def as_stored(self, values: np.ndarray) -> np.ndarray:
        """(Z, Y, X) in this orientation as (X, Y, Z) in the order of the first file; a view."""
        ras = values.transpose(2, 1, 0)
        stored = ras.transpose([int(across) for across in self.orientation[:, 0]])
        flips = [axis for axis in range(3) if self.orientation[axis, 1] < 0]
        return np.flip(stored, flips)

    def _read(self, file: Path, start: int, stop: int) -> np.ndarray:
        if file.name.lower().endswith(NIFTI_SUFFIXES) and not file.is_dir():
            return read_slab(file, start, stop)
        if file not in self._whole:
            from nibabel.orientations import apply_orientation

            volume = read_volume(file, {"max_pixels": self.max_pixels}).numpy()
            turned = apply_orientation(np.moveaxis(volume, 0, -1), self.orientation)
            self._whole[file] = turned.transpose(3, 2, 1, 0)
        return self._whole[file][:, start:stop]
