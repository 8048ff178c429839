"""From a decoded image to the pixels a tower takes, exactly as open_clip's own transform does it; and augmentation for
training by albumentations as a pure function of the seed: what those of domains share."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from ..contracts.images import CropTransform, ImageSize, as_image_size, height_and_width
from ..contracts.items import Decoded
from ..contracts.unequal_parts import UnequalParts
from ..errors import ConfigError, DataError

Picture = Image.Image | Tensor
MODES = ("shortest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
ASPECT_RATIOS = (3 / 4, 4 / 3)
LONGEST_ASPECT = 100
FAST_MARGIN = 2
"""How many times the pixels per side that are needed a fast decoder leaves at least: docs/measurements/scale.md has
what less and more would cost."""
SEED_LIMIT = 2**32


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
        resize: what the shortest side (of "squash" both) is resized to before the crop, where it is more than S; None
            for S.
        randaugment: after the random crop and flip, RandAugment on the image in 8 bits (`randaugment`).
        flip: whether the training view is mirrored, in half of the cases; without, the crops are the same.
        fast_decode: images may have been reduced by their decoder to `least_side`, as JPEG can be by 2, 4 or 8.
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
    flip: bool = True
    fast_decode: bool = False

    def __post_init__(self):
        object.__setattr__(self, "image_size", as_image_size(self.image_size))
        if min(self.sides) < 1:
            raise ConfigError(f"image_size={self.image_size} is not usable; give a side in pixels")
        if self.mode not in MODES:
            raise ConfigError(f"resize mode '{self.mode}' is not known; give one of {', '.join(MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            names = ", ".join(INTERPOLATIONS)
            raise ConfigError(f"interpolation '{self.interpolation}' is not known; give one of {names}")
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

    def takes(self, sides: tuple[int, int]) -> bool:
        """Whether pixels (..., H, W) are of the size that it makes."""
        return sides == self.sides

    def trimmed(self, pixels: Tensor) -> Tensor:
        """Pixels of a batch without what they need not have."""
        return pixels

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
        if self.flip:
            del stated["flip"]
        if self.fast_decode:
            stated["fast_decode"] = FAST_MARGIN
        else:
            del stated["fast_decode"]
        return {"transform": "clip", **stated}

    @property
    def least_side(self) -> int | None:
        """The shortest side that a decoder may reduce an image to; None where it may not reduce any."""
        if not self.fast_decode:
            return None
        return FAST_MARGIN * -(-max(self.sides) * (self.resize or min(self.sides)) // min(self.sides))

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        """(3, S, S) float32 of a PIL image or an array (H, W), (H, W, 1) or (H, W, 3), uint8 or float in 0..1.

        Args:
            seed: fixes the random crop and flip; without it they come from torch's own generator.

        Raises:
            DataError: an array of another shape or kind.
        """
        picture = as_picture(image)
        resized = self._augmented(picture, seed) if self.train else self._resized(picture)
        if isinstance(resized, Image.Image):
            resized = to_tensor(resized if resized.mode == "RGB" else resized.convert("RGB"))  # within 0..1
        else:
            resized = resized.clamp(0, 1)
        return normalize_(resized, self.mean, self.std)

    def with_crop(self, scale: tuple[float, float]) -> Preprocess:
        return replace(self, scale=tuple(scale))

    def without_flip(self) -> Preprocess:
        return replace(self, flip=False)

    def with_randaugment(self) -> Preprocess:
        return replace(self, randaugment=True)

    def _resized(self, picture):
        if self.mode == "squash":
            share = (self.resize or min(self.sides)) / min(self.sides)
            return center_crop(self._resize(picture, [int(side * share) for side in self.sides]), self.sides)
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
        top, left, rows, columns = random_box(height, width, self.scale, generator)
        picture = self._resize(crop(picture, top, left, rows, columns), self.sides)
        mirrored = torch.rand((), generator=generator) < 0.5  # drawn without a flip too: crops stay the same
        picture = hflip(picture) if mirrored and self.flip else picture
        return randaugment(in_8_bits(picture), generator) if self.randaugment else picture

    def _resize(self, picture, size):
        return resize(picture, size, self.interpolation)


def as_picture(image: Any) -> Image.Image | Tensor:
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


def in_8_bits(picture) -> Image.Image:
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


def random_box(height: int, width: int, scale, generator) -> tuple[int, int, int, int]:
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


# Each of these has the result of torchvision's function of that name, to the bit. Importing torchvision costs more than
# importing torch, since its operators bring torch's compiler; a tower's input needs no more of it than this.


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


# "RandAugment: Practical automated data augmentation with a reduced search space" (Cubuk et al., 2019, arXiv
# 1909.13719); ranges, and the chance of each operation, are those of "randaugment2" in Dassl, which POMP publishes.

COUNT = 2
CHANCE = 0.6
"""Of each operation that was drawn."""


def randaugment(image: Image.Image, generator: torch.Generator | None = None) -> Image.Image:
    """An RGB image through two of 15 operations, each left out at times, as the code that prompt learners share has it.

    Args:
        generator: fixes what is drawn; None takes torch's own.
    """
    for which in torch.randint(len(OPERATIONS), (COUNT,), generator=generator).tolist():
        chance, strength = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if chance < CHANCE:
            operation, low, high = OPERATIONS[which]
            image = operation(image, low + strength * (high - low))
    return image


def _moved(rows: Callable[[Image.Image, float], tuple[float, ...]]) -> Callable[[Image.Image, float], Image.Image]:
    """An affine map, black where it looks beyond the image."""
    return lambda image, value: image.transform(image.size, Image.Transform.AFFINE, rows(image, value))


def _enhanced(kind) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, value: kind(image).enhance(value)


OPERATIONS: tuple[tuple[Callable[[Image.Image, float], Image.Image], float, float], ...] = (
    (lambda image, _: image, 0, 1),
    (lambda image, _: ImageOps.autocontrast(image), 0, 1),
    (lambda image, _: ImageOps.equalize(image), 0, 1),
    (lambda image, _: ImageOps.invert(image), 0, 1),
    (lambda image, bits: ImageOps.posterize(image, int(bits)), 4, 8),
    (lambda image, above: ImageOps.solarize(image, above), 0, 256),
    (_enhanced(ImageEnhance.Brightness), 0.1, 1.9),
    (_enhanced(ImageEnhance.Color), 0.1, 1.9),
    (_enhanced(ImageEnhance.Contrast), 0.1, 1.9),
    (_enhanced(ImageEnhance.Sharpness), 0.1, 1.9),
    (lambda image, degrees: image.rotate(degrees), -30, 30),
    (_moved(lambda _, share: (1, share, 0, 0, 1, 0)), -0.3, 0.3),
    (_moved(lambda _, share: (1, 0, 0, share, 1, 0)), -0.3, 0.3),
    (_moved(lambda image, share: (1, 0, share * image.width, 0, 1, 0)), -0.3, 0.3),
    (_moved(lambda image, share: (1, 0, 0, 0, 1, share * image.height)), -0.3, 0.3),
)
"""(image, strength) -> image, and the range of the strength."""


@dataclass(frozen=True)
class EachPart(CropTransform):
    """A picklable callable: a transform of one picture for samples that may have several parts, (T, H, W, 3).

    All parts of a sample are cut and turned alike, since each gets the same seed. Parts of unequal size are taken each
    as it is (`UnequalParts`).
    """

    transform: Callable[..., Tensor]

    @property
    def spec(self) -> dict[str, Any]:
        return self.transform.spec

    @property
    def safe_crop(self) -> tuple[float, float] | None:
        return self.transform.safe_crop if isinstance(self.transform, CropTransform) else None

    def __call__(self, image: Decoded, seed: int | None = None) -> Tensor:
        """(3, S, S) of a picture (H, W, 3), (T, 3, S, S) of T parts."""
        if image.ndim < 4:
            return self.transform(image, seed=seed)
        return torch.stack([self.transform(part, seed=seed) for part in UnequalParts.each(image)])

    def with_crop(self, scale: tuple[float, float]) -> EachPart:
        return replace(self, transform=self.transform.with_crop(scale))

    def without_flip(self) -> EachPart | None:
        of_one = self.transform.without_flip() if isinstance(self.transform, CropTransform) else None
        return None if of_one is None else replace(self, transform=of_one)

    def with_randaugment(self) -> EachPart | None:
        of_one = self.transform.with_randaugment() if isinstance(self.transform, CropTransform) else None
        return None if of_one is None else replace(self, transform=of_one)


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
