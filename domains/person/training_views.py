"""Augmented views of a picture of a person that TBPS-CLIP found to help, and the strong ones of its SimCLR part.

An Empirical Study of CLIP for Text-based Person Search (Cao et al., 2023, arXiv 2308.10045). Each view is a function of
the picture and a seed. Pixels are normalised as the tower wants it, where the released code takes ImageNet's mean and
deviation for CLIP's tower too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ...core.contracts import Backbone, height_and_width
from ...core.training import Views

TOGETHER = 2
"""How many of the six changes a picture goes through; one may be drawn twice."""
LIGHT_CROP, STRONG_CROP = (0.9, 1.0), (0.2, 1.0)
BICUBIC = v2.InterpolationMode.BICUBIC


def tbps_clip_view(backbone: Backbone) -> Callable[[Any, int], Tensor]:
    """The picture resized, then two of: jittered colours, a turn of up to 15 degrees, a crop of 0.9 to 1 of the area,
    grey with probability 0.1, a flip with 0.5, and with 0.5 a tenth to a fifth of the area erased."""
    size = height_and_width(backbone.image_size)
    changes = (
        v2.ColorJitter(0.1, 0.1, 0.1, 0),
        v2.RandomRotation(15),
        v2.RandomResizedCrop(size, scale=LIGHT_CROP, antialias=True),
        v2.RandomGrayscale(),
        v2.RandomHorizontalFlip(),
        v2.RandomErasing(scale=(0.1, 0.2)),
    )

    def changed(pixels: Tensor) -> Tensor:
        pixels = F.resize(pixels, list(size), BICUBIC, antialias=True).clamp(0, 1)
        for number in torch.randint(len(changes), (TOGETHER,)).tolist():
            pixels = changes[number](pixels)
        return pixels

    return Views(backbone).of_steps([changed])


def simclr_view(backbone: Backbone) -> Callable[[Any, int], Tensor]:
    """SimCLR's view (2020, arXiv 2002.05709) with TBPS-CLIP's crop of 0.2 to 1 of the area: colours jittered with
    probability 0.8, grey with 0.2, blurred with 0.5, flipped with 0.5."""
    size = height_and_width(backbone.image_size)
    # Side of a blur's window: odd, 3 at least, and 13 where that holds the widest Gaussian.
    steps = [
        v2.RandomResizedCrop(size, scale=STRONG_CROP, antialias=True),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
        v2.RandomApply([v2.GaussianBlur(max(3, min(13, (min(size) // 8) // 2 * 2 + 1)), sigma=(0.1, 2.0))], p=0.5),
        v2.RandomHorizontalFlip(),
    ]
    return Views(backbone).of_steps(steps)
