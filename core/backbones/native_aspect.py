"""Images at their own aspect ratio: patches, how many rows and columns there are, and padding up to the most of them.

SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense Features,
2025, arXiv 2502.14786, whose NaFlex follows "Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and
Resolution", 2023, arXiv 2307.06304, and FlexiViT, 2022, arXiv 2212.08013.

So that images of all shapes can be stacked, pixels are a row of patches, (3, p, (1 + M) * p): the first says how many
rows and columns there are, the others are those patches, row by row, and then zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .preprocessing import Preprocess, crop, hflip, in_8_bits, randaugment, random_box, size_of

NATIVE = "native"
"""What `NativeAspect.spec` calls it."""
PRECISION = 1e-5
LARGEST_SCALE = 100.0


def fitting_grid(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """(rows, columns) of patches at the largest scale, common to both sides, at which there are no more than `most`.

    Each side is rounded up to whole patches, so the aspect ratio may change a little.
    """

    def at(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, -int(-(side * scale) // patch)) for side in (height, width))
        return rows, columns

    low, high = PRECISION / 10, LARGEST_SCALE
    while high - low >= PRECISION:
        scale = (low + high) / 2
        rows, columns = at(scale)
        low, high = (scale, high) if rows * columns <= most else (low, scale)
    return at(low)


@dataclass(frozen=True, kw_only=True)
class NativeAspect(Preprocess):
    """A picklable callable: image -> a row of patches (3, p, (1 + M) * p) float32; in training of a random crop of the
    image, flipped or not.

    Args:
        patch: p.
        patches: M, the most that an image becomes.
    """

    patch: int
    patches: int

    @classmethod
    def of(cls, pixels: Preprocess, patch: int, patches: int) -> NativeAspect:
        """One that makes the values of pixels as another does."""
        side = max(1, round(patches**0.5)) * patch  # of a square of as many patches
        return cls(side, pixels.mean, pixels.std, pixels.interpolation, patch=patch, patches=patches)

    @property
    def spec(self) -> dict[str, Any]:
        stated = {key: value for key, value in super().spec.items() if key not in ("image_size", "mode")}
        return {**stated, "transform": NATIVE}

    def takes(self, sides: tuple[int, int]) -> bool:
        """Whether pixels are a row of patches, or a square of as many."""
        return self.is_row(sides) or super().takes(sides)

    def is_row(self, sides: tuple[int, int]) -> bool:
        """Whether pixels are a row of patches."""
        return sides[0] == self.patch and sides[1] % self.patch == 0

    def trimmed(self, pixels: Tensor) -> Tensor:
        """Rows of patches without the padding that all of them have; on the CPU, where that asks no device."""
        if not self.is_row((pixels.shape[-2], pixels.shape[-1])) or pixels.device.type != "cpu" or not len(pixels):
            return pixels
        return pixels[..., : (1 + int(_grid(pixels).prod(dim=1).max())) * self.patch]

    def _resized(self, picture):
        height, width = size_of(picture)
        rows, columns = fitting_grid(height, width, self.patch, self.patches)
        return self._resize(picture, (rows * self.patch, columns * self.patch))

    def _augmented(self, picture, seed: int | None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        picture = self._resized(crop(picture, *random_box(*size_of(picture), self.scale, generator)))
        mirrored = torch.rand((), generator=generator) < 0.5
        picture = hflip(picture) if mirrored and self.flip else picture
        return randaugment(in_8_bits(picture), generator) if self.randaugment else picture

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        return packed(super().__call__(image, seed), self.patch, self.patches)


def packed(pixels: Tensor, patch: int, most: int) -> Tensor:
    """(3, h * p, w * p) -> (3, p, (1 + M) * p)."""
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    cut = pixels.view(3, rows, patch, columns, patch).permute(0, 2, 1, 3, 4)  # (3, p, h, w, p)
    row = pixels.new_zeros(3, patch, (1 + most) * patch)
    row[0, 0, 0], row[1, 0, 0] = rows, columns
    row[:, :, patch : (1 + rows * columns) * patch] = cut.reshape(3, patch, -1)
    return row


def unpacked(pixels: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, p, (1 + M) * p) -> patches (B, M, p * p * 3), each by rows, columns and channels, a mask (B, M), and the
    rows and columns of each image (B, 2)."""
    grid = _grid(pixels)
    row = pixels[..., patch:].unflatten(-1, (-1, patch))  # (B, 3, p, M, p)
    patches = row.permute(0, 3, 2, 4, 1).flatten(2)
    numbers = torch.arange(patches.shape[1], device=pixels.device)
    return patches, (numbers < grid.prod(dim=1, keepdim=True)).long(), grid


def _grid(pixels: Tensor) -> Tensor:
    return pixels[:, :2, 0, 0].round().long()  # (B, 2)
