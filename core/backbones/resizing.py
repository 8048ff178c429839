"""Resizes and crops of a PIL image or of pixels (3, H, W), each with the result of torchvision's function of that name.

Importing torchvision costs more than importing torch, since its operators bring torch's compiler; a tower's input needs
no more of it than this. The tests compare each function with torchvision's to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Picture = Image.Image | Tensor


def size_of(picture: Picture) -> tuple[int, int]:
    """(H, W)."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[-2], picture.shape[-1]


def resize(picture: Picture, size: int | Sequence[int], interpolation: str) -> Picture:
    """Antialiased where the interpolation has it: a PIL image by Pillow, pixels by torch.

    Args:
        size: of the shortest side, the other in proportion, or (H, W).
        interpolation: "bicubic", "bilinear", "nearest" or "lanczos", the last for PIL images only.
    """
    height, width = size_of(picture)
    if isinstance(size, int):
        longest = int(size * max(height, width) / min(height, width))
        size = (longest, size) if width <= height else (size, longest)
    if (height, width) == tuple(size):
        return picture
    if isinstance(picture, Image.Image):
        return picture.resize((size[1], size[0]), Image.Resampling[interpolation.upper()])
    smooth = interpolation in ("bilinear", "bicubic")
    align = False if smooth else None
    return F.interpolate(picture[None], tuple(size), mode=interpolation, align_corners=align, antialias=smooth)[0]


def crop(picture: Picture, top: int, left: int, height: int, width: int) -> Picture:
    """A box that lies within the picture."""
    if isinstance(picture, Image.Image):
        return picture.crop((left, top, left + width, top + height))
    return picture[..., top : top + height, left : left + width]


def center_crop(picture: Picture, size: Sequence[int]) -> Picture:
    """The middle (H, W) of a picture that is at least as large."""
    (height, width), (rows, columns) = size_of(picture), size
    return crop(picture, round((height - rows) / 2), round((width - columns) / 2), rows, columns)


def hflip(picture: Picture) -> Picture:
    if isinstance(picture, Image.Image):
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture.flip(-1)


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in 0..1 of an RGB image."""
    pixels = torch.from_numpy(np.array(image, np.uint8))  # (H, W, 3)
    return pixels.permute(2, 0, 1).contiguous().float().div(255)


def normalize_(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, H, W) less the mean of each channel, divided by its standard deviation, in place."""
    shift, scale = (torch.tensor(values, dtype=pixels.dtype)[:, None, None] for values in (mean, std))
    return pixels.sub_(shift).div_(scale)
