"""Patches of training volumes, each a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .....registry import DATASETS
from ...segmenting import PreparedCase, Preprocessing, learned, prepared

NONE, MIRROR, ALL = "none", "mirror", "all"


@dataclass(frozen=True)
class Draw:
    """One patch: the place of its volume, its first voxel, the axes that it is mirrored along, and the seed of whatever
    else is done to it."""

    place: int
    start: tuple[int, ...]
    mirrored: tuple[int, ...]
    seed: int


@DATASETS.register_module()
class VolumePatches(Dataset):
    """So many patches, drawn as nnU-Net draws them: volumes with replacement, and of each batch the last third, one at
    least where there are two, centred on a voxel of a structure, which is drawn before.

    Args:
        cases: {"files", "mask", "values"} of each volume (`preprocessing.prepared`), and "annotated", the places of the
            structures that were outlined.
        preprocessing: `Preprocessing` as JSON.
        patch_size: (z, y, x).
        draws: patches in all.
        batch_size: of the training, over all processes.
        seed: with its number it fixes a patch.
        foreground: share of patches that are centred on a structure.
        overlapping: whether structures are regions that overlap.
        augment: "none", "mirror", or "all": turns, scales, noise and contrast too.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        preprocessing: Mapping[str, Any],
        patch_size: Sequence[int],
        draws: int,
        batch_size: int = 2,
        seed: int = 1,
        foreground: float = 1 / 3,
        overlapping: bool = False,
        augment: str = ALL,
    ):
        self.cases, self.how = list(cases), Preprocessing.from_json(preprocessing)
        self.patch_size, self.draws, self.batch_size = tuple(patch_size), draws, batch_size
        self.seed, self.foreground, self.overlapping = seed, foreground, overlapping
        self.augment = _augmentation() if augment == ALL else None
        self.mirror = augment != NONE
        self._prepared: dict[int, PreparedCase] = {}

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, number: int) -> dict[str, Any]:
        """ "inputs" (C, z, y, x) float32, "labels" (1 or K, z, y, x) uint8 and "annotated" (K,) bool."""
        draw = self.draw(number)
        values, case = self.cases[draw.place]["values"], self.case(draw.place)
        image, stored = (_cut(of, draw.start, self.patch_size) for of in (case.image, case.labels[None]))
        labels = learned(stored[0], values, self.overlapping)
        image, labels = np.flip(image, draw.mirrored), np.flip(labels, draw.mirrored)
        image, labels = torch.from_numpy(image.copy()), torch.from_numpy(labels.copy())
        if self.augment is not None:
            self.augment.set_random_state(seed=draw.seed)
            changed = self.augment({"image": image, "label": labels})
            image, labels = (torch.as_tensor(changed[key]).clone() for key in ("image", "label"))
        annotated = torch.tensor([bool(of) for of in values])
        return {"inputs": image.float(), "labels": labels.to(torch.uint8), "annotated": annotated}

    def draw(self, number: int) -> Draw:
        """Which patch it is."""
        random = np.random.default_rng([self.seed, number])
        place = int(random.integers(len(self.cases)))
        case = self.case(place)
        forced = number % self.batch_size >= round(self.batch_size * (1 - self.foreground))
        start = patch_start(random, case.labels.shape, self.patch_size, case.locations if forced else None)
        mirrored = tuple(axis for axis in (1, 2, 3) if self.mirror and random.random() < 0.5)
        return Draw(place, start, mirrored, int(random.integers(2**31)))

    def case(self, place: int) -> PreparedCase:
        """A volume, prepared when it is first drawn."""
        if place not in self._prepared:
            case = self.cases[place]
            self._prepared[place] = prepared(case["files"], case["mask"], case["values"], self.how)
        return self._prepared[place]


def patch_start(
    random: np.random.Generator, shape: Sequence[int], patch_size: Sequence[int], locations: np.ndarray | None
) -> tuple[int, ...]:
    """The first voxel of a patch, which may lie outside a volume that is smaller than it.

    Args:
        locations: (n, 4) structure, z, y, x of voxels, one of which the patch is centred on; None, or none there, for a
            patch anywhere.
    """
    pad = np.maximum(np.array(patch_size) - shape, 0)
    low, high = -(pad // 2), np.array(shape) + pad // 2 + pad % 2 - patch_size
    if locations is None or not len(locations):
        return tuple(int(random.integers(a, b + 1)) for a, b in zip(low, high))
    there = np.unique(locations[:, 0])
    of_one = locations[locations[:, 0] == there[random.integers(len(there))], 1:]
    voxel = of_one[random.integers(len(of_one))]
    return tuple(map(int, np.clip(voxel - np.array(patch_size) // 2, low, high)))


def _cut(values: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """(C, *size) of (C, Z, Y, X), zero outside."""
    shape = values.shape[1:]
    inside = [slice(max(0, a), min(n, a + s)) for a, s, n in zip(start, size, shape)]
    z, y, x = inside
    part = np.asarray(values[:, z, y, x])
    around = [(of.start - a, a + s - of.stop) for of, a, s in zip(inside, start, size)]
    return np.pad(part, [(0, 0), *around]) if any(map(any, around)) else part


def _augmentation() -> Any:
    """What nnU-Net does to a patch, by MONAI's transforms: turns and scales of one patch in five, noise, blur,
    brightness, contrast and gamma."""
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import (
        RandAdjustContrastd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandScaleIntensityFixedMeand,
    )
    from monai.transforms.spatial.dictionary import RandAffined

    wide = (0.5, 1.0)
    return Compose(
        [
            RandAffined(
                ("image", "label"),
                prob=0.2,
                rotate_range=(0.52, 0.52, 0.52),  # 30 degrees
                scale_range=((-0.3, 0.4),) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.1, std=0.3),
            RandGaussianSmoothd("image", prob=0.1, sigma_x=wide, sigma_y=wide, sigma_z=wide),
            RandScaleIntensityd("image", prob=0.15, factors=0.25),
            RandScaleIntensityFixedMeand("image", prob=0.15, factors=0.25, preserve_range=True),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )
