"""Training augmentation by albumentations as a pure function of the seed: what those of domains share."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..contracts.images import CropTransform, ImageSize, height_and_width

SEED_LIMIT = 2**32


@dataclass
class SeededAugment(CropTransform):
    """Base of picklable callables: decoded image -> pixels (B, S, S) float32, augmented and normalised.

    A subclass says in `steps` what is done, in `picture` how a decoded image becomes (H, W, B), and has a field
    `scale`: the share of the area that a crop keeps, (smallest, largest).

    Args:
        image_size: S, or (H, W), then in place of (S, S) below.
        mean, std: of each channel, in 0..1.

    Class attributes:
        name: of the transform, part of the feature store's key.
        safe: the shares of the area that a crop may keep.
    """

    name: ClassVar[str]
    safe: ClassVar[tuple[float, float]]

    image_size: ImageSize
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        self._local = threading.local()

    @abstractmethod
    def steps(self, resample: int) -> list:
        """The transforms of albumentations, a crop to (S, S) by the interpolation `resample` among them."""

    @abstractmethod
    def picture(self, image: np.ndarray) -> np.ndarray:
        """(H, W, B), uint8 or float32 in 0..1, of a decoded image."""

    @property
    def safe_crop(self) -> tuple[float, float]:
        return self.safe

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"transform": self.name, **stated}

    def __call__(self, image: np.ndarray, seed: int | None = None) -> Tensor:
        """(B, S, S) float32 of an image (H, W) or (H, W, B), uint8 or float in 0..1.

        Args:
            seed: fixes what is drawn; None draws anew each time.
        """
        picture = self.picture(image)
        pipeline = self._pipeline(shrinks=min(picture.shape[:2]) > min(height_and_width(self.image_size)))
        pipeline.set_random_seed(int(torch.randint(SEED_LIMIT, ())) if seed is None else int(seed) % SEED_LIMIT)
        pixels = pipeline(image=picture)["image"]  # (S, S, B), the type of the input
        full = 255.0 if pixels.dtype == np.uint8 else 1.0
        unit = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()  # (B, S, S)
        unit = unit.div(full).clamp(0, 1)
        return (unit - torch.tensor(self.mean).view(-1, 1, 1)) / torch.tensor(self.std).view(-1, 1, 1)

    def with_crop(self, scale: tuple[float, float]) -> SeededAugment:
        return replace(self, scale=tuple(scale))

    def _pipeline(self, shrinks: bool):
        """One pipeline per thread: its random state is its own."""
        built = self._local.__dict__.setdefault("built", {})
        if shrinks not in built:
            os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read at import: else it asks a server
            import albumentations as A
            import cv2

            # area has no aliasing, but blocks where it enlarges
            built[shrinks] = A.Compose(self.steps(cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))
        return built[shrinks]

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._local = threading.local()
