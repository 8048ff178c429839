"""What the training volumes of a set are like: the fingerprint from which nnU-Net configures itself ("nnU-Net: a
self-configuring method for deep learning-based biomedical image segmentation", Isensee et al., Nature Methods 18, 2021,
arXiv 1904.08128)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Item
from ....core.data import remember_by_file
from ..volumes import Slabs, files_of

SAMPLED = 10_000
"""Foreground voxels of each volume whose values count."""
ANISOTROPIC = 3
"""Times the spacing of the others from which an axis is called thick."""
CT = ("ct", "computed tomography")


@dataclass(frozen=True)
class _Channel:
    """Values of foreground voxels in one channel.

    Args:
        modality: as the set names it, or "".
        low, high: percentiles 0.5 and 99.5.
    """

    modality: str
    mean: float
    std: float
    low: float
    median: float
    high: float

    @property
    def is_ct(self) -> bool:
        return self.modality.strip().lower() in CT


@dataclass(frozen=True)
class Fingerprint:
    """Args:
    cases: volumes.
    spacing: millimetres along Z, Y and X that volumes are resampled to, the median's; along a thick axis the tenth
        percentile.
    shape: median number of voxels along Z, Y and X once they are.
    channels: of each the values in the foreground.
    voxels: structure -> median number of its voxels where it is shown, and in how many volumes it is.
    """

    cases: int
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    channels: tuple[_Channel, ...]
    voxels: dict[str, tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fingerprint_of(items: Sequence[Item], class_names: Sequence[str]) -> Fingerprint:
    """The fingerprint of training volumes, each read a slab at a time."""
    volumes = [Slabs(files_of(item)) for item in items]
    spacings = np.array([volume.spacing for volume in volumes])  # (N, 3)
    sizes = np.array([volume.shape[1:] for volume in volumes])
    spacing = _target_spacing(spacings, sizes)
    shape = np.median(np.round(sizes * spacings / spacing), axis=0).round().astype(int)
    per_case = [_foreground(item.target.file, tuple(map(str, files_of(item))), _values(item)) for item in items]
    pooled = np.concatenate([values for values, _ in per_case], axis=1)  # (C, n)
    modalities = items[0].target.modalities or ("",) * len(pooled)
    channels = tuple(_channel(name, values) for name, values in zip(modalities, pooled))
    voxels = {}
    for place, name in enumerate(class_names):
        counts = [
            sum(of.get(value, 0) for value in item.target.values[place])
            for item, (_, of) in zip(items, per_case)
            if place in item.classes()
        ]
        voxels[name] = (int(np.median(counts)) if counts else 0, len(counts))
    (a, b, c), (z, y, x) = map(float, spacing), map(int, shape)
    return Fingerprint(len(items), (a, b, c), (z, y, x), channels, voxels)


def _values(item: Item) -> tuple[int, ...]:
    return tuple(sorted({value for of in item.target.values for value in of}))


def _target_spacing(spacings: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The median spacing; of an axis that is thick in millimetres and has few voxels the tenth percentile, though none
    finer than the other axes."""
    spacing = np.median(spacings, axis=0)
    size = np.median(sizes * spacings / spacing, axis=0)
    worst = int(spacing.argmax())
    others = [axis for axis in range(3) if axis != worst]
    if spacing[worst] > ANISOTROPIC * spacing[others].max() and size[worst] * ANISOTROPIC < size[others].min():
        spacing[worst] = max(np.percentile(spacings[:, worst], 10), spacing[others].max())
    return spacing


@remember_by_file(size=1024)
def _foreground(mask: Path, files: tuple[str, ...], values: tuple[int, ...]) -> tuple[np.ndarray, dict[int, int]]:
    """(C, n) values of some voxels in any structure, drawn evenly, and how many voxels have each label."""
    volume, labels = Slabs(files), Slabs([mask])
    counts = dict.fromkeys(values, 0)
    for _, slab in labels:
        for value in values:
            counts[value] += int((slab == value).sum())
    share, random = min(1.0, SAMPLED / max(1, sum(counts.values()))), np.random.default_rng(0)
    drawn = []
    for start, slab in volume:
        inside = np.isin(labels.read(start, start + slab.shape[1])[0], values)
        inside &= random.random(inside.shape, dtype=np.float32) < share
        drawn.append(slab[:, inside])
    return np.concatenate(drawn, axis=1), counts


def _channel(modality: str, values: np.ndarray) -> _Channel:
    if not values.size:
        return _Channel(modality, 0.0, 1.0, 0.0, 0.0, 0.0)
    low, median, high = (float(each) for each in np.percentile(values, [0.5, 50, 99.5]))
    return _Channel(
        modality, float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), low, median, high
    )
