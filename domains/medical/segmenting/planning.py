"""How a network is cut to a set of volumes: the patch that it sees, and its steps of resolution, as nnU-Net plans them
from the fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .fingerprint import Fingerprint

MOST_VOXELS = 128**3
"""Of a patch, as nnU-Net's plans have for whole volumes on one GPU."""
LEAST_FEATURES = 4
"""Side of the deepest map, in voxels."""
MOST_STEPS, LEAST_STEPS = 5, 2
"""Halvings of a patch; DynUNet has three resolutions at least, even where patches are small."""
WIDEST = 320
"""Channels of the deepest maps."""
NEXT_TO = 2
"""Times the finest spacing up to which an axis is halved with the others."""


@dataclass(frozen=True)
class NetworkPlan:
    """Args:
    patch_size: voxels along Z, Y and X; each can be halved as often as the strides say.
    strides, kernels: of each resolution, the first of which is the patch's own.
    """

    patch_size: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    kernels: tuple[tuple[int, int, int], ...]

    def filters(self, width: int) -> list[int]:
        """Channels of each resolution, twice those of the one before."""
        return [min(width * 2**step, WIDEST) for step in range(len(self.strides))]


def network_plan(fingerprint: Fingerprint, patch_size: Sequence[int] | None = None, divisor: int = 1) -> NetworkPlan:
    """The plan for a set.

    Args:
        patch_size: in place of the one that follows from the fingerprint.
        divisor: that each side of the patch must have, of networks whose steps are fixed.
    """
    spacing = np.array(fingerprint.spacing)
    if patch_size is None:
        side = (MOST_VOXELS * spacing.prod()) ** (1 / 3) / spacing  # as many millimetres along each axis
        wanted = np.minimum(np.round(side), fingerprint.shape).astype(int)
        room = MOST_VOXELS / wanted.prod()
        while room > 1.05 and (open_axes := wanted < fingerprint.shape).any():  # what short axes leave, long ones take
            grown = np.minimum(np.ceil(wanted * room ** (1 / open_axes.sum())), fingerprint.shape).astype(int)
            wanted = np.where(open_axes, grown, wanted)
            if wanted.prod() >= MOST_VOXELS:
                break
            room = MOST_VOXELS / wanted.prod()
        wanted = np.maximum(wanted, 1)
    else:
        wanted = np.array(patch_size)
    strides, kernels = _steps(wanted, spacing)
    multiples = np.maximum(np.prod(strides, axis=0), divisor)
    size = np.ceil(wanted / multiples).astype(int) * multiples
    if divisor > 1 and (size == divisor).all():
        size[-1] *= 2  # a deepest map of one voxel has no deviation to be divided by
    z, y, x = map(int, size)
    return NetworkPlan((z, y, x), strides, kernels)


def _steps(patch: np.ndarray, spacing: np.ndarray) -> tuple[Any, Any]:
    """Axes are halved as long as they are about as fine as the finest that is, and their maps stay large enough."""
    size, spacing = patch.astype(float), spacing.copy()
    kernel = np.where(spacing / spacing.min() < NEXT_TO, 3, 1)
    strides: list[tuple[int, ...]] = [(1, 1, 1)]
    kernels: list[tuple[int, ...]] = [tuple(map(int, kernel))]
    while len(strides) <= MOST_STEPS:
        large = size >= 2 * (LEAST_FEATURES if len(strides) > LEAST_STEPS else 1)
        if not large.any():
            break
        halved = large & (spacing / spacing[large].min() < NEXT_TO)
        size, spacing = np.where(halved, np.ceil(size / 2), size), np.where(halved, spacing * 2, spacing)
        kernel = np.where((kernel == 3) | (spacing / spacing.min() < NEXT_TO), 3, 1)
        strides.append(tuple(2 if each else 1 for each in halved))
        kernels.append(tuple(map(int, kernel)))
    while len(strides) <= LEAST_STEPS:
        strides, kernels = [*strides, (1, 1, 1)], [*kernels, kernels[-1]]
    return tuple(strides), tuple(kernels)
