"""Training augmentation of 2-D medical images, by albumentations: mild, and a pure function of the seed.

Crops keep at least four fifths of the image, since size tells in medicine; turns stay below 10 degrees; brightness and
contrast change by up to 10 %, as they do between scanners and stains. Colour is left alone: in histology and
haematology it is the finding.
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.contracts.images import CropTransform

SEED_LIMIT = 2**32
SAFE_CROP = (0.8, 1.0)


@dataclass
class MedicalAugment(CropTransform):
    """A picklable callable: decoded image -> pixels (3, S, S) float32, augmented.

    Args:
        image_size: S.
        mean, std: of each channel, in 0..1, of the backbone.
        scale: the share of the area that a crop keeps, (smallest, largest).
        flip: probability of a left-right flip.
        rotate: largest turn, degrees to either side.
        jitter: largest change of brightness and of contrast, as a share.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: tuple[float, float] = SAFE_CROP
    flip: float = 0.5
    rotate: float = 10.0
    jitter: float = 0.1

    def __post_init__(self):
        self._local = threading.local()

    @property
    def safe_crop(self) -> tuple[float, float]:
        return SAFE_CROP

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"transform": "medical-augment", **stated}

    def __call__(self, image: np.ndarray, seed: int | None = None) -> Tensor:
        """(3, S, S) float32 of an image (H, W) or (H, W, 3), uint8 or float in 0..1.

        Args:
            seed: fixes what is drawn; None draws anew each time.
        """
        picture = _three_channels(image)
        pipeline = self._pipeline(shrinks=min(picture.shape[:2]) > self.image_size)
        pipeline.set_random_seed(int(torch.randint(SEED_LIMIT, ())) if seed is None else int(seed) % SEED_LIMIT)
        pixels = pipeline(image=picture)["image"]  # (S, S, 3), the type of the input
        full = 255.0 if pixels.dtype == np.uint8 else 1.0
        unit = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()  # (3, S, S)
        unit = unit.div(full).clamp(0, 1)
        return (unit - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def with_crop(self, scale: tuple[float, float]) -> MedicalAugment:
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

        size = (self.image_size, self.image_size)
        resample = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC  # area has no aliasing, but blocks where it enlarges
        return A.Compose(
            [
                A.Rotate(limit=self.rotate, interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
                A.RandomResizedCrop(size, scale=self.scale, ratio=(0.8, 1.25), interpolation=resample, p=1.0),
                A.HorizontalFlip(p=self.flip),
                A.RandomBrightnessContrast(brightness_limit=self.jitter, contrast_limit=self.jitter, p=0.8),
            ]
        )

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._local = threading.local()


def _three_channels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3), uint8 or float32."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
