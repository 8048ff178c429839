"""Steps of training, for albumentations: the same for all frames of a clip, since all are changed under one seed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from .sampling import five_crops

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of the crops of MultiScaleCrop, as shares of the shorter side."""
SHORT_SIDES = (224, 256)
"""Pixels between which PySlowFast draws the shorter side, and of which it keeps the smaller number."""


class BoxCrop(A.ImageOnlyTransform):
    """Base of crops that are resized to (height, width) of `size`."""

    def __init__(self, size: tuple[int, int]):
        super().__init__(p=1.0)
        self.size = size

    @abstractmethod
    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, columns and rows of a crop of a frame."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return {"box": self.box(*params["shape"][:2])}

    def apply(self, img: np.ndarray, box: tuple[int, int, int, int], **params) -> np.ndarray:
        left, top, columns, rows = box
        shrinks = min(rows, columns) > min(self.size)  # area makes blocks where it enlarges
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(img[top : top + rows, left : left + columns], self.size[::-1], interpolation=how)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("size",)


class MultiScaleCrop(BoxCrop):
    """At a corner or in the middle; rows and columns are drawn from `MULTI_SCALES`, at most one scale apart ("Temporal
    Segment Networks", Wang et al. 2016, arXiv 1608.00859; five places, as X-CLIP has it)."""

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        sides = [int(min(height, width) * share) for share in MULTI_SCALES]
        pairs = [(one, other) for i, one in enumerate(sides) for j, other in enumerate(sides) if abs(i - j) <= 1]
        columns, rows = self.py_random.choice(pairs)
        place = self.py_random.randrange(5)
        return five_crops(height, width, columns)[place][0], five_crops(height, width, rows)[place][1], columns, rows


class ScaleJitterCrop(BoxCrop):
    """PySlowFast's: the shorter side is drawn from `SHORT_SIDES`, then a square of the smaller number anywhere."""

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        side = round(min(height, width) * SHORT_SIDES[0] / self.py_random.uniform(*SHORT_SIDES))
        return self.py_random.randint(0, width - side), self.py_random.randint(0, height - side), side, side


class RandAugment(A.ImageOnlyTransform):
    """Two operations of strength 9 of 30, as ActionCLIP has it (Cubuk et al., 2019, arXiv 1909.13719)."""

    def __init__(self):
        super().__init__(p=1.0)
        self.change = transforms.RandAugment(num_ops=2, magnitude=9)

    def get_params(self) -> dict[str, int]:
        return {"seed": self.py_random.getrandbits(32)}

    def apply(self, img: np.ndarray, seed: int, **params) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
            torch.default_generator.manual_seed(seed)
            return np.asarray(self.change(Image.fromarray(img)))

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ()
