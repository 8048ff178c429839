"""Augmented views of one image, each a pure function of the image and a seed.

The strong views are those of SimCLR (A Simple Framework for Contrastive Learning of Visual Representations, 2020,
arXiv 2002.05709), which SLIP uses; the local crops are those of DINO (Emerging Properties in Self-Supervised Vision
Transformers, 2021, arXiv 2104.14294), which SILC uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from ..contracts.backbone import Backbone
from ..contracts.images import CropTransform, ImageSize, height_and_width
from ..errors import CapabilityError

STRONG_SCALE = (0.08, 1.0)
LOCAL_SCALE = (0.05, 0.4)
LOCAL_SHARE = 96 / 224
"""Side of a local crop beside that of the whole view, as DINO publishes."""

View = Callable[[Any, int], Tensor]


@dataclass(frozen=True)
class Views:
    """Augmented views of images as the towers of a backbone take them."""

    backbone: Backbone

    def light(self, scale: tuple[float, float], flip: bool = True) -> View:
        """A random crop, and with `flip` a mirrored image in half of the cases, as the backbone's own training
        transform makes them."""
        transform = self.backbone.preprocess(train=True).with_crop(scale)
        transform = transform if flip else CropTransform.unflipped(transform)
        return lambda decoded, seed: transform(decoded, seed=seed)

    def strong(self, scale: tuple[float, float] = STRONG_SCALE, blur: float = 0.5) -> View:
        """SimCLR's: a small crop, a flip, jittered colours, grey at times, blur at times.

        Args:
            scale: shares of the area that a crop keeps.
            blur: how often it is blurred.
        """
        if self.backbone.channels is not None:
            raise CapabilityError(
                f"strong views jitter the colours of pictures, and these have {len(self.backbone.channels)} channels; "
                "choose another loss (clip, silc)"
            )
        size = min(height_and_width(self.backbone.image_size))
        jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        blurred = v2.RandomApply([v2.GaussianBlur(max(3, size // 10 // 2 * 2 + 1), sigma=(0.1, 2.0))], p=blur)
        steps = _crop_and_flip(self.backbone.image_size, scale)
        return self.of_steps([*steps, jitter, v2.RandomGrayscale(p=0.2), blurred])

    def local(self) -> View:
        """DINO's local crop: a small part of the image at a smaller size."""
        return self.of_steps(_crop_and_flip(local_size(self.backbone), LOCAL_SCALE))

    def of_steps(self, steps: Sequence[Callable[[Tensor], Tensor]]) -> View:
        """Steps of torchvision, one after the other, of pixels (3, H, W) in 0..1, then normalised for the backbone."""
        normalise = v2.Normalize(list(self.backbone.image_mean), list(self.backbone.image_std))

        def made(pixels: Tensor) -> Tensor:
            for step in steps:
                pixels = step(pixels)
            return normalise(pixels.clamp(0, 1))

        return seeded_view(made)


def local_size(backbone: Backbone) -> int:
    """Side of a local crop: whole patches, where the tower has patches."""
    side = min(height_and_width(backbone.image_size))
    if "image_blocks" not in backbone.capabilities:
        return max(32, round(side * LOCAL_SHARE))
    patch = patch_size(backbone)
    return max(1, round(side * LOCAL_SHARE / patch)) * patch


def patch_size(backbone: Backbone) -> int:
    """Side of a patch of the image tower, in pixels."""
    with torch.no_grad():
        _, (rows, _) = backbone.image_tokens(backbone.blank_image())
    return height_and_width(backbone.image_size)[0] // rows


def seeded_view(make: Callable[[Tensor], Tensor]) -> View:
    """What makes something of pixels (3, H, W) in 0..1, and draws from torch's own generator, as torchvision does."""

    def view(decoded: Any, seed: int) -> Tensor:
        pixels = as_tensor(decoded)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return make(pixels)

    return view


def _crop_and_flip(size: ImageSize, scale: tuple[float, float]) -> list[v2.Transform]:
    crop = v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    return [crop, v2.RandomHorizontalFlip()]


def are_8_bits(decoded: Any) -> bool:
    """Whether an image, or each frame of a clip, was decoded to 8 bits per channel."""
    return getattr(decoded, "dtype", None) == np.uint8


def pixels_in_8_bits(pixels: Tensor, backbone: Backbone) -> Tensor:
    """Pixels of images of 8 bits, normalised for a backbone -> uint8, a quarter of the bytes; see `normalised`."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (backbone.image_mean, backbone.image_std))
    return (pixels * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels (..., 3, S, S) as a tower takes them: those of 8 bits are normalised, all others are already.

    Args:
        mean, std: (3, 1, 1), on the device of the pixels.
    """
    return (pixels.float().div(255) - mean) / std if pixels.dtype == torch.uint8 else pixels


def as_tensor(decoded: Any) -> Tensor:
    """(H, W, 3) uint8 or float in 0..1 -> (3, H, W) float32 in 0..1."""
    array = np.asarray(decoded)
    array = array[..., None] if array.ndim == 2 else array
    scaled = array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))  # (3, H, W)
    return pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels
