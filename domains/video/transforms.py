"""From decoded frames to pixels: every frame by the tower's own preprocessing, or one crop, flip and change of colour
drawn for the whole clip; frame by frame, or clip by clip for a tower that sees frames together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.backbones import JointParts, SeededAugment
from ...core.contracts import CropTransform, Decoded
from ...core.errors import ConfigError
from .clips import AREA, CENTRE, LIGHT, MULTI_SCALE, SCALE_JITTER, STRONG, UNCHANGED
from .sampling import five_crops, three_crops

SAFE_CROP = (0.5, 1.0)
TEN_CROP = 224 / 256
"""Side of a crop of ten, as a share of the shorter side."""
STRONG_CHANGES = (0.4, 0.4, 0.2, 0.1)
"""Largest changes of brightness, contrast, saturation and hue by X-CLIP, ViFi-CLIP and ActionCLIP."""
LATER = ("crop", "colours", "grey", "randaugment")
"""Fields that the key of stored features has only where they are not as they always were."""


@dataclass(frozen=True)
class EachFrame(CropTransform):
    """A picklable callable: a transform of one image, for all frames of a clip with the same seed.

    Frames that a rule draws by chance are drawn anew for each seed.

    Args:
        transform: of one image.
        crops: of all frames, one crop after the other: 1 for what `transform` takes of them; 3 squares along the longer
            side, 10 at the corners and in the middle with their mirror images, as MMAction2's ThreeCrop and TenCrop.
        clips: how many clips follow one another in what is decoded, of which the middle one is taken; 1 for all frames.
        share: of each side, in the middle, that a single crop is made of.
    """

    transform: Callable[..., Tensor]
    crops: int = 1
    clips: int = 1
    share: float = 1.0

    @property
    def spec(self) -> dict[str, Any]:
        usual = {"crops": 1, "clips": 1, "share": 1.0}
        stated = {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}
        return {**stated, "of": self.transform.spec} if stated else self.transform.spec

    @property
    def safe_crop(self) -> tuple[float, float] | None:
        return self.transform.safe_crop if isinstance(self.transform, CropTransform) else None

    def __call__(self, clip: Decoded, seed: int | None = None) -> Tensor:
        """(crops * T, 3, S, S) of a clip (T, H, W, 3), (3, S, S) of an image."""
        if clip.ndim < 4:
            return self.transform(clip, seed=seed)
        redrawn = getattr(clip, "redrawn", None)
        frames = redrawn(seed) if redrawn is not None and seed is not None else np.asarray(clip)
        if self.clips > 1:
            length = len(frames) // self.clips
            frames = frames[(self.clips - 1) // 2 * length :][:length]
        crops = [middle(frames, self.share)] if self.crops == 1 else cropped(frames, self.crops)
        return torch.stack([self.transform(np.ascontiguousarray(one), seed=seed) for some in crops for one in some])

    def with_crop(self, scale: tuple[float, float]) -> EachFrame:
        return replace(self, transform=self.transform.with_crop(scale))

    def without_flip(self) -> EachFrame | None:
        of_one = self.transform.without_flip() if isinstance(self.transform, CropTransform) else None
        return None if of_one is None else replace(self, transform=of_one)


@dataclass(frozen=True)
class WholeClip:
    """A picklable callable: what `EachFrame` makes of a clip, for a tower that sees its frames together.

    Args:
        transform: of the frames.
        frames: how many the tower sees; a clip of another number gives those of `JointParts.chosen`.
        clips: how many clips follow one another in what is decoded, each seen by itself; 1 for all frames at once.
        each: whether the tower gives a vector of each frame.
    """

    transform: EachFrame
    frames: int
    clips: int = 1
    each: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        several = {"clips": self.clips} if self.clips > 1 else {}
        each = {"each": True} if self.each else {}
        return {"together": self.frames, **several, **each, "of": self.transform.spec}

    def __call__(self, clip: Decoded, seed: int | None = None) -> Tensor:
        """(crops * clips, frames, 3, S, S) of a clip, each crop of each a part of it; (3, S, S) of an image."""
        pixels = self.transform(clip, seed=seed)
        if pixels.ndim == 3:
            return pixels
        views = by_crop(pixels, self.transform).unflatten(1, (self.clips, -1)).flatten(0, 1)
        return JointParts.chosen(views, self.frames, dim=1)


def by_crop(pixels: Tensor, transform: Callable) -> Tensor:
    """What a transform made, (crops * T, 3, S, S) of a clip or (3, S, S) of an image, -> (crops, T, 3, S, S)."""
    if pixels.ndim != 4:
        return pixels if pixels.ndim == 5 else pixels[None, None]
    return pixels.unflatten(0, (transform.crops if isinstance(transform, EachFrame) else 1, -1))


def as_frames(pixels: Tensor, frames: int) -> Tensor:
    """(T, 3, S, S) of a clip, (3, S, S) of an image -> (frames, 3, S, S), those of `JointParts.chosen`."""
    return JointParts.chosen(pixels if pixels.ndim == 4 else pixels[None], frames)


def middle(frames: np.ndarray, share: float) -> np.ndarray:
    """The middle of frames (T, H, W, 3), a share of both sides."""
    sides = frames.shape[1:3]
    top, left = (round(side * (1 - share) / 2) for side in sides)
    return frames[:, top : sides[0] - top, left : sides[1] - left]


def cropped(frames: np.ndarray, crops: int) -> list[np.ndarray]:
    """Square crops of frames (T, H, W, 3), 3 or 10 of them.

    The squares of 3 are as large as the frames allow; those of 10 have 224 of 256 parts of the shorter side, as
    published.
    """
    height, width = frames.shape[1:3]
    side = min(height, width)
    if crops == 3:
        corners = three_crops(height, width, side)
    else:
        side = max(1, round(side * TEN_CROP))
        corners = five_crops(height, width, side)
    squares = [frames[:, top : top + side, left : left + side] for left, top in corners]
    return squares if crops == 3 else [each for square in squares for each in (square, square[:, :, ::-1])]


@dataclass
class ClipAugment(SeededAugment):
    """A picklable callable: decoded frame -> pixels (3, S, S) float32, augmented.

    Args:
        image_size: S.
        mean, std: of each channel, in 0..1.
        scale: the share of the area that a crop of "area" keeps, (smallest, largest).
        flip: probability of a left-right flip; 0 where the classes are told by direction.
        jitter: largest change of brightness, contrast and saturation by "light" colours, as a share.
        crop: one of `TRAIN_CROPS`.
        colours: one of `COLOURS`.
        grey: probability of no colours.
        randaugment: whether RandAugment changes what is cropped.
    """

    name: ClassVar[str] = "clip-augment"
    safe: ClassVar[tuple[float, float]] = SAFE_CROP

    scale: tuple[float, float] = SAFE_CROP
    flip: float = 0.5
    jitter: float = 0.2
    crop: str = AREA
    colours: str = LIGHT
    grey: float = 0.0
    randaugment: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        later = {field.name: field.default for field in fields(self) if field.name in LATER}
        return {key: value for key, value in super().spec.items() if key not in later or value != later[key]}

    def with_crop(self, scale: tuple[float, float]) -> SeededAugment:
        if self.crop != AREA:
            raise ConfigError(f"option crop_scale: changes crops of {AREA}, and --train-crop is {self.crop}; omit one")
        return super().with_crop(scale)

    def picture(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(image)

    def steps(self, resample: int) -> list:
        import albumentations as A

        from .training_steps import RandAugment

        light = (self.jitter, self.jitter, self.jitter, 0.0)
        brightness, contrast, saturation, hue = STRONG_CHANGES if self.colours == STRONG else light
        largest = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        changes = {name: (1 - change, 1 + change) for name, change in largest.items()}
        return [
            *self._crop(resample),
            *([RandAugment()] if self.randaugment else []),
            A.HorizontalFlip(p=self.flip),
            *([] if self.colours == UNCHANGED else [A.ColorJitter(**changes, hue=(-hue, hue), p=0.8)]),
            *([A.ToGray(p=self.grey)] if self.grey else []),
        ]

    def _crop(self, resample: int) -> list:
        import albumentations as A

        from .training_steps import MultiScaleCrop, ScaleJitterCrop

        size = (self.image_size, self.image_size)
        if self.crop == AREA:
            return [A.RandomResizedCrop(size, scale=self.scale, ratio=(3 / 4, 4 / 3), interpolation=resample, p=1.0)]
        if self.crop == CENTRE:
            return [A.SmallestMaxSize(self.image_size, interpolation=resample), A.CenterCrop(*size)]
        return [{MULTI_SCALE: MultiScaleCrop, SCALE_JITTER: ScaleJitterCrop}[self.crop](size)]
