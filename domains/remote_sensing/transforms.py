"""From pictures from above to pixels: the tower's own preprocessing by another corpus, and augmentation for training.

The augmentation is by albumentations, for any number of bands, a function of the seed.

There is no upright from above: all eight symmetries of the square are equally likely. A crop changes the scale. Haze
lightens and flattens all bands alike, as air does; each band's gain moves by itself, as light and sensors do; now and
then one band is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.backbones import SeededAugment
from ...core.contracts import Decoded, height_and_width
from .bands import COLOURS

SAFE_CROP = (0.5, 1.0)


@dataclass(frozen=True)
class OtherCorpus:
    """A picklable callable: what a transform gives, by another mean and deviation.

    Args:
        transform: decoded image -> pixels (C, S, S), normalised.
        old, new: (mean, deviation) of each channel.
    """

    transform: Callable[[Decoded], Tensor]
    old: tuple[Sequence[float], Sequence[float]]
    new: tuple[Sequence[float], Sequence[float]]

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        return {"transform": "other-corpus", "of": self.transform.spec, "to": [list(side) for side in self.new]}

    def __call__(self, image: Decoded, seed: int | None = None) -> Tensor:
        old_mean, old_std, mean, std = (torch.tensor(side).view(-1, 1, 1) for side in (*self.old, *self.new))
        return (self.transform(image) * old_std + old_mean - mean) / std  # (C, S, S)


@dataclass
class SceneAugment(SeededAugment):
    """A picklable callable: decoded image -> pixels (B, S, S) float32, augmented.

    Args:
        image_size: S.
        mean, std: of each band, in 0..1.
        scale: the share of the area that a crop keeps, (smallest, largest).
        haze: largest share of the light that haze takes; 0 for none.
        gain: largest change of a band's gain, and of brightness, as a share.
        drop: probability that one band of several is missing.
    """

    name: ClassVar[str] = "scene-augment"
    safe: ClassVar[tuple[float, float]] = SAFE_CROP

    scale: tuple[float, float] = SAFE_CROP
    haze: float = 0.3
    gain: float = 0.1
    drop: float = 0.1

    def picture(self, image: np.ndarray) -> np.ndarray:
        return _with_bands(image, self.mean)

    def steps(self, resample: int) -> list:
        import albumentations as A

        from .haze import Haze

        size = height_and_width(self.image_size)
        gains = (1 - self.gain, 1 + self.gain)
        steps = [
            A.RandomResizedCrop(size, scale=self.scale, ratio=(0.8, 1.25), interpolation=resample, p=1.0),
            A.D4(p=1.0),
            Haze(self.haze, p=0.3),
            A.RandomBrightnessContrast(brightness_limit=self.gain, contrast_limit=self.gain, p=0.5),
            A.MultiplicativeNoise(multiplier=gains, per_channel=True, elementwise=False, p=0.5),
        ]
        if len(self.mean) > 1:
            steps.append(A.ChannelDropout(channel_drop_range=(1, 1), fill=0, p=self.drop))
        return steps


def _with_bands(image: np.ndarray, mean: Sequence[float]) -> np.ndarray:
    """(H, W, B) float32 in 0..1; a single band is repeated, bands that a picture lacks are their mean."""
    array = np.asarray(image)
    array = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
    array = array[:, :, None] if array.ndim == 2 else array
    bands = len(mean)
    if array.shape[2] == 1 < bands:
        array = np.repeat(array, min(bands, COLOURS), axis=2)
    further = np.broadcast_to(np.float32(mean[array.shape[2] :]), (*array.shape[:2], bands - array.shape[2]))
    return np.ascontiguousarray(np.concatenate([array, further], axis=2))
