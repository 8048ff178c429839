"""Where the voxels of a volume lie: affines from voxel indices to millimetres, right, anterior and superior positive.

DICOM and ITK count left and posterior positive (LPS), NIfTI and MONAI right and anterior (RAS); here all is RAS.
"""

from __future__ import annotations

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


def check_same_geometry(volume: MetaTensor, mask: MetaTensor) -> None:
    """Refuse a mask that lies elsewhere than its volume: a voxel of one must be the voxel of the other.

    Args:
        volume: (C, X, Y, Z), as `read_volume` gives it.
        mask: (C, X, Y, Z), likewise.

    Raises:
        DataError: other sizes, or a corner further apart than `TOLERANCE_MM`. The message names the first of size,
            spacing, origin and direction that differs, with both values.
    """
    size = np.array(volume.shape[1:])
    ours, theirs = volume.affine.numpy(), mask.affine.numpy()
    corners = np.array([*np.ndindex(2, 2, 2)]) * (size - 1)  # (8, 3)
    apart = np.abs(corners @ (ours - theirs)[:3, :3].T + (ours - theirs)[:3, 3])
    if tuple(size) == tuple(mask.shape[1:]) and apart.max() <= TOLERANCE_MM:
        return
    facts = _facts(volume, mask)
    unlike = (fact for fact in facts if np.abs(fact[2] - fact[3]).max() > TOLERANCE_MM)
    name, digits, one, other = next(unlike, facts[-1])  # a direction that differs by less moves a far corner by more
    raise DataError(
        f"{mask.meta['filename_or_obj']}: its {name} is {_in_words(other, digits)}, but that of "
        f"{Path(volume.meta['filename_or_obj']).name} is {_in_words(one, digits)}; resample the mask to its volume"
    )


def _facts(volume: MetaTensor, mask: MetaTensor) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
    """Name, digits to show, and the values of both."""
    pairs = [(np.array(each.shape[1:]), each.affine.numpy()) for each in (volume, mask)]
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for _, affine in pairs]
    return [
        ("size", 0, *(size for size, _ in pairs)),
        ("spacing", 4, *spacings),
        ("origin", 4, *(affine[:3, 3] for _, affine in pairs)),
        ("direction", 6, *((affine[:3, :3] / s).ravel() for (_, affine), s in zip(pairs, spacings, strict=True))),
    ]


def _in_words(values: np.ndarray, digits: int) -> str:
    return f"({', '.join(f'{value:.{digits}f}' for value in values)})"
