"""Training augmentation of 2-D medical images, by albumentations: mild, and a pure function of the seed.

Crops keep at least four fifths of the image, since size tells in medicine; turns stay below 10 degrees; brightness and
contrast change by up to 10 %, as they do between scanners and stains. Colour is left alone: in histology and
haematology it is the finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...core.backbones import SeededAugment
from ...core.contracts import height_and_width

SAFE_CROP = (0.8, 1.0)


@dataclass
class MedicalAugment(SeededAugment):
    """A picklable callable: decoded image -> pixels (3, S, S) float32, augmented.

    Args:
        image_size: S.
        mean, std: of each channel, in 0..1, of the backbone.
        scale: the share of the area that a crop keeps, (smallest, largest).
        flip: probability of a left-right flip.
        rotate: largest turn, degrees to either side.
        jitter: largest change of brightness and of contrast, as a share.
    """

    name: ClassVar[str] = "medical-augment"
    safe: ClassVar[tuple[float, float]] = SAFE_CROP

    scale: tuple[float, float] = SAFE_CROP
    flip: float = 0.5
    rotate: float = 10.0
    jitter: float = 0.1

    def picture(self, image: np.ndarray) -> np.ndarray:
        return _three_channels(image)

    def steps(self, resample: int) -> list:
        import albumentations as A
        import cv2

        size = height_and_width(self.image_size)
        return [
            A.Rotate(limit=self.rotate, interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
            A.RandomResizedCrop(size, scale=self.scale, ratio=(0.8, 1.25), interpolation=resample, p=1.0),
            A.HorizontalFlip(p=self.flip),
            A.RandomBrightnessContrast(brightness_limit=self.jitter, contrast_limit=self.jitter, p=0.8),
        ]


def _three_channels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3), uint8 or float32."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
