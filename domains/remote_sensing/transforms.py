"""From pictures from above to pixels: the tower's own preprocessing by another corpus, and augmentation for training.

The augmentation is by albumentations, for any number of bands, a function of the seed.

There is no upright from above: all eight symmetries of the square are equally likely. A crop changes the scale. Haze
lightens and flattens all bands alike, as air does; each band's gain moves by itself, as light and sensors do; now and
then one band is missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.contracts.domain import Decoded
from ...core.contracts.images import CropTransform

SEED_LIMIT = 2**32
SAFE_CROP = (0.5, 1.0)


@dataclass(frozen=True)
class OtherCorpus:
    """A picklable callable: what a transform gives, by another mean and deviation.

    Args:
        transform: decoded image -> pixels (3, S, S), normalised.
        old, new: (mean, deviation) of red, green and blue.
    """

    transform: Callable[[Decoded], Tensor]
    old: tuple[Sequence[float], Sequence[float]]
    new: tuple[Sequence[float], Sequence[float]]

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        return {"transform": "other-corpus", "of": self.transform.spec, "to": [list(side) for side in self.new]}

    def __call__(self, image: Decoded, seed: int | None = None) -> Tensor:
        old_mean, old_std, mean, std = (torch.tensor(side).view(3, 1, 1) for side in (*self.old, *self.new))
        return (self.transform(image) * old_std + old_mean - mean) / std  # (3, S, S)


@dataclass(frozen=True)
class EachPicture(CropTransform):
    """A picklable callable: a transform of one picture for samples that may have several, (T, H, W, 3).

    All pictures of a sample are cut and turned alike, since each gets the same seed.
    """

    transform: Callable[..., Tensor]

    @property
    def spec(self) -> dict[str, Any]:
        return self.transform.spec

    @property
    def safe_crop(self) -> tuple[float, float] | None:
        return self.transform.safe_crop if isinstance(self.transform, CropTransform) else None

    def __call__(self, image: Decoded, seed: int | None = None) -> Tensor:
        """(3, S, S) of a picture (H, W, 3), (T, 3, S, S) of T pictures."""
        if image.ndim < 4:
            return self.transform(image, seed=seed)
        return torch.stack([self.transform(picture, seed=seed) for picture in image])

    def with_crop(self, scale: tuple[float, float]) -> EachPicture:
        return replace(self, transform=self.transform.with_crop(scale))


@dataclass
class SceneAugment(CropTransform):
    """A picklable callable: decoded image -> pixels (B, S, S) float32, augmented.

    Args:
        image_size: S.
        mean, std: of each band, in 0..1.
        scale: the share of the area that a crop keeps, (smallest, largest).
        haze: largest share of the light that haze takes; 0 for none.
        gain: largest change of a band's gain, and of brightness, as a share.
        drop: probability that one band of several is missing.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: tuple[float, float] = SAFE_CROP
    haze: float = 0.3
    gain: float = 0.1
    drop: float = 0.1

    def __post_init__(self):
        self._local = threading.local()

    @property
    def safe_crop(self) -> tuple[float, float]:
        return SAFE_CROP

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"transform": "scene-augment", **stated}

    def __call__(self, image: np.ndarray, seed: int | None = None) -> Tensor:
        """(B, S, S) float32 of an image (H, W) or (H, W, B), uint8 or float in 0..1.

        Args:
            seed: fixes what is drawn; None draws anew each time.
        """
        picture = _with_bands(image, len(self.mean))
        pipeline = self._pipeline(shrinks=min(picture.shape[:2]) > self.image_size)
        pipeline.set_random_seed(int(torch.randint(SEED_LIMIT, ())) if seed is None else int(seed) % SEED_LIMIT)
        pixels = pipeline(image=picture)["image"]  # (S, S, B)
        unit = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).clamp(0, 1)  # (B, S, S)
        return (unit - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)

    def with_crop(self, scale: tuple[float, float]) -> SceneAugment:
        return replace(self, scale=tuple(scale))

    def _pipeline(self, shrinks: bool):
        """One pipeline per thread: its random state is its own."""
        built = self._local.__dict__.setdefault("built", {})
        if shrinks not in built:
            built[shrinks] = self._build(shrinks)
        return built[shrinks]

    def _build(self, shrinks: bool):
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: it would ask a server for its version
        import albumentations as A
        import cv2

        from .haze import Haze

        size = (self.image_size, self.image_size)
        resample = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC  # area has no aliasing, but blocks where it enlarges
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
        return A.Compose(steps)

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._local = threading.local()


def _with_bands(image: np.ndarray, bands: int) -> np.ndarray:
    """(H, W, B) float32 in 0..1; a single band is repeated."""
    array = np.asarray(image)
    array = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
    array = array[:, :, None] if array.ndim == 2 else array
    return np.ascontiguousarray(np.repeat(array, bands, axis=2) if array.shape[2] == 1 < bands else array)
