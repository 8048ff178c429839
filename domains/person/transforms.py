"""From a picture of a person to pixels: resized whole, and for training flipped, padded, cropped and erased.

Those of "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (Luo et al. 2019, arXiv 1903.07071) and
of "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval" (Jiang and Ye 2023, arXiv
2303.12501): a flip with probability 0.5, 10 pixels of black around, a random crop of the old size, random erasing.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from .random_erasing import RandomErasing


@dataclass(frozen=True)
class PedestrianTransform:
    """A picklable callable: decoded image -> pixels (3, H, W) float32.

    Args:
        size: (H, W).
        mean, std: of each channel, in 0..1.
        train: flip, pad, crop and erase, a pure function of the image and the seed.
        flip: probability of the flip.
        pad: pixels around, from which a crop of `size` is taken.
        erasing: what is erased; None for nothing.
        interpolation: "bicubic" or "bilinear".
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: bool = False
    flip: float = 0.5
    pad: int = 10
    erasing: RandomErasing | None = RandomErasing()
    interpolation: str = "bicubic"

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"transform": "pedestrian", **stated}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        """(3, H, W) of an image (H, W, 3), uint8 or float in 0..1.

        Args:
            seed: fixes what is drawn; without it torch's own generator draws.
        """
        unit = self._resized(image)
        if not self.train:
            return F.normalize(unit, self.mean, self.std)
        seed = int(torch.randint(1 << 62, ())) if seed is None else seed
        pixels = F.normalize(self._moved(unit, torch.Generator().manual_seed(seed)), self.mean, self.std)
        return pixels if self.erasing is None else self.erasing(pixels, self.mean, self.std, random.Random(seed))

    def _resized(self, image: Any) -> Tensor:
        mode = InterpolationMode(self.interpolation)
        if isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.floating):
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()  # (3, h, w)
            return F.resize(pixels, list(self.size), mode, antialias=True).clamp(0, 1)
        picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        return F.to_tensor(F.resize(picture.convert("RGB"), list(self.size), mode, antialias=True))

    def _moved(self, unit: Tensor, generator: torch.Generator) -> Tensor:
        if float(torch.rand((), generator=generator)) < self.flip:
            unit = unit.flip(-1)
        if self.pad:
            unit = F.pad(unit, self.pad)
            row, column = torch.randint(0, 2 * self.pad + 1, (2,), generator=generator).tolist()
            unit = F.crop(unit, row, column, *self.size)
        return unit
