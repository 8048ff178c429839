"""Where the voxels of a volume lie: affines from voxel indices to millimetres, right, anterior and superior positive.

DICOM and ITK count left and posterior positive (LPS), NIfTI and MONAI right and anterior (RAS); here all is RAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....core.errors import DataError

if TYPE_CHECKING:
    from monai.data import MetaTensor

TOLERANCE_MM = 1e-3
"""Between positions of the same voxel by two headers: files round their directions in the last digits that they keep
(2e-8, nnU-Net issue 1287), which moves a corner by less."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ras_affine(directions: np.ndarray, spacing: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(4, 4) affine of voxel indices to RAS millimetres.

    Args:
        directions: (3, 3), of which a column is the unit vector along a voxel axis, in LPS.
        spacing: (3,) millimetres.
        origin: (3,) the centre of the first voxel, in LPS.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.asarray(directions) * np.asarray(spacing), origin
    return LPS_TO_RAS @ affine


def as_volume(values: np.ndarray, affine: np.ndarray, source: Path) -> MetaTensor:
    """The volume as MONAI's transforms take it.

    Args:
        values: (C, X, Y, Z) float32.
        affine: (4, 4) of voxel indices to RAS millimetres.
        source: the file, or the folder of a series; for messages.
    """
    import torch
    from monai.data import MetaTensor

    meta = {"filename_or_obj": str(source), "space": "RAS", "spatial_shape": np.array(values.shape[1:])}
    tensor = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return MetaTensor(tensor, affine=torch.from_numpy(np.array(affine, dtype=np.float64)), meta=meta)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie, by its header.

    Args:
        path: the file, for messages.
        size: (X, Y, Z).
        affine: (4, 4) of voxel indices to RAS millimetres.
        channels: values of each voxel.
    """

    path: Path
    size: tuple[int, int, int]
    affine: np.ndarray
    channels: int = 1

    @property
    def spacing(self) -> np.ndarray:
        """(3,) millimetres along X, Y and Z."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def facts(self) -> list[tuple[str, int, np.ndarray]]:
        """Name, digits to show, and values of what makes it."""
        spacing = self.spacing
        directions = (self.affine[:3, :3] / spacing).ravel()
        return [
            ("size", 0, np.array(self.size)),
            ("spacing", 4, spacing),
            ("origin", 4, self.affine[:3, 3]),
            ("direction", 6, directions),
        ]


def check_same_geometry(volume: MetaTensor, mask: MetaTensor) -> None:
    """Refuse a mask that lies elsewhere than its volume: a voxel of one must be the voxel of the other.

    Args:
        volume: (C, X, Y, Z), as `read_volume` gives it.
        mask: (C, X, Y, Z), likewise.

    Raises:
        DataError: as `check_same_grid`.
    """
    grids = (
        Grid(Path(each.meta["filename_or_obj"]), tuple(each.shape[1:]), each.affine.numpy()) for each in (volume, mask)
    )
    check_same_grid(*grids)


def check_same_grid(volume: Grid, mask: Grid) -> None:
    """The same by the headers of two files.

    Raises:
        DataError: other sizes, or a corner further apart than `TOLERANCE_MM`. The message names the first of size,
            spacing, origin and direction that differs, with both values.
    """
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(volume.size) - 1)  # (8, 3)
    moved = volume.affine - mask.affine
    apart = np.abs(corners @ moved[:3, :3].T + moved[:3, 3])
    if volume.size == mask.size and apart.max() <= TOLERANCE_MM:
        return
    facts = [(*one, other[2]) for one, other in zip(volume.facts(), mask.facts(), strict=True)]
    unlike = (fact for fact in facts if np.abs(fact[2] - fact[3]).max() > TOLERANCE_MM)
    name, digits, one, other = next(unlike, facts[-1])  # a direction that differs by less moves a far corner by more
    raise DataError(
        f"{mask.path}: its {name} is {_in_words(other, digits)}, but that of "
        f"{volume.path} is {_in_words(one, digits)}; resample the mask to its volume"
    )


def _in_words(values: np.ndarray, digits: int) -> str:
    return f"({', '.join(f'{value:.{digits}f}' for value in values)})"
