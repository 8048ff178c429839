"""From a decoded image to the pixels a tower takes, exactly as open_clip's own transform does it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..contracts.images import CropTransform, ImageSize, as_image_size, height_and_width
from ..errors import ConfigError, DataError
from .randaugment import randaugment
from .resizing import center_crop, crop, hflip, normalize_, resize, size_of, to_tensor

MODES = ("shortest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
ASPECT_RATIOS = (3 / 4, 4 / 3)
LONGEST_ASPECT = 100


@dataclass(frozen=True)
class Preprocess(CropTransform):
    """A picklable callable: image -> pixels (3, S, S) float32.

    Args:
        image_size: S, the side of the square that the tower takes, or (H, W), then in place of (S, S) below.
        mean: of each channel, in 0..1.
        std: of each channel.
        interpolation: "bicubic", "bilinear", "nearest" or "lanczos" (images of 8 bits only).
        mode: "shortest" resizes until S x S is covered, the shortest side to S of a square, and crops the centre;
            "squash" resizes both sides to S.
        resize: what the shortest side is resized to before the crop, where it is more than S; None for S.
        randaugment: after the random crop and flip, RandAugment on the image in 8 bits (`randaugment.py`).
        train: a random resized crop and a random flip instead, a pure function of the image and the seed.
        scale: the share of the area that the random crop keeps, (smallest, largest). The default is that of
            Tip-Adapter and APE, whose keys average such views; CoOp publishes (0.08, 1).

    Raises:
        ConfigError: an argument is not one of those.
    """

    image_size: ImageSize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    mode: str = "shortest"
    train: bool = False
    scale: tuple[float, float] = (0.5, 1.0)
    resize: int | None = None
    randaugment: bool = False

    def __post_init__(self):
        object.__setattr__(self, "image_size", as_image_size(self.image_size))
        if min(self.sides) < 1:
            raise ConfigError(f"image_size={self.image_size} is not usable; give a side in pixels")
        if self.mode not in MODES:
            raise ConfigError(f"resize mode '{self.mode}' is not known; give one of {', '.join(MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ConfigError(f"interpolation '{self.interpolation}' is not known; give one of {known}")
        if self.resize is not None and self.resize < min(self.sides):
            raise ConfigError(
                f"resize={self.resize} is smaller than the crop of {self.image_size}; give at least as much"
            )
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ConfigError(f"scale={self.scale} is not usable; give two shares, 0 < smallest <= largest <= 1")
        for name in ("mean", "std", "scale"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W)."""
        return height_and_width(self.image_size)

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if not self.train:
            del stated["scale"]
        if self.resize is None:
            del stated["resize"]
        if not self.randaugment:
            del stated["randaugment"]
        return {"transform": "clip", **stated}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        """(3, S, S) float32 of a PIL image or an array (H, W), (H, W, 1) or (H, W, 3), uint8 or float in 0..1.

        Args:
            seed: fixes the random crop and flip; without it they come from torch's own generator.

        Raises:
            DataError: an array of another shape or kind.
        """
        picture = _picture(image)
        resized = self._augmented(picture, seed) if self.train else self._resized(picture)
        if isinstance(resized, Image.Image):
            resized = to_tensor(resized if resized.mode == "RGB" else resized.convert("RGB"))  # within 0..1
        else:
            resized = resized.clamp(0, 1)
        return normalize_(resized, self.mean, self.std)

    def with_crop(self, scale: tuple[float, float]) -> Preprocess:
        return replace(self, scale=tuple(scale))

    def with_randaugment(self) -> Preprocess:
        return replace(self, randaugment=True)

    def _resized(self, picture):
        if self.mode == "squash":
            return self._resize(picture, self.sides)
        picture = _without_long_ends(picture)
        if isinstance(self.image_size, int):
            return center_crop(self._resize(picture, self.resize or self.image_size), self.sides)
        return center_crop(self._resize(picture, self._covering(picture)), self.sides)

    def _covering(self, picture) -> list[int]:
        """[h, w] of the picture, its proportions kept, so that it covers (H, W), with the margin that `resize` has."""
        height, width = size_of(picture)
        scale = max(self.sides[0] / height, self.sides[1] / width) * (self.resize or min(self.sides)) / min(self.sides)
        return [max(side, round(scale * old)) for side, old in zip(self.sides, (height, width))]

    def _augmented(self, picture, seed: int | None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        height, width = size_of(picture)
        top, left, rows, columns = _random_box(height, width, self.scale, generator)
        picture = self._resize(crop(picture, top, left, rows, columns), self.sides)
        picture = hflip(picture) if torch.rand((), generator=generator) < 0.5 else picture
        return randaugment(_in_8_bits(picture), generator) if self.randaugment else picture

    def _resize(self, picture, size):
        return resize(picture, size, self.interpolation)


def _picture(image: Any) -> Image.Image | Tensor:
    """8-bit images as PIL images, so that every resize is Pillow's; deeper ones as (3, H, W) float32."""
    if isinstance(image, Image.Image):
        # A palette or a mask cannot be interpolated; all other modes are converted after the resize, as open_clip does.
        return image.convert("RGB") if image.mode in ("P", "1") else image
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DataError(f"an image array of shape {np.shape(image)} is not usable; give (H, W) or (H, W, 3)")
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"an image array of {array.dtype} is not usable; give uint8, or float in 0..1")
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32).transpose(2, 0, 1)))  # (3, H, W)


def _in_8_bits(picture) -> Image.Image:
    """RGB."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())


def _without_long_ends(picture):
    """A strip a pixel wide would grow to gigabytes; what the centre crop would drop anyway is cut before the resize."""
    height, width = size_of(picture)
    most = LONGEST_ASPECT * min(height, width)
    if max(height, width) <= most:
        return picture
    return center_crop(picture, (min(height, most), min(width, most)))


def _random_box(height: int, width: int, scale, generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a crop with a random share of the area and a random aspect ratio."""
    low, high = np.log(ASPECT_RATIOS[0]), np.log(ASPECT_RATIOS[1])
    for _ in range(10):
        share, aspect, row, column = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        ratio = float(np.exp(low + aspect * (high - low)))
        rows, columns = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < rows <= height and 0 < columns <= width:
            return int(row * (height - rows + 1)), int(column * (width - columns + 1)), rows, columns
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
