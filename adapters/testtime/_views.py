"""Random views of one decoded image: crops and flips, and the mixing of AugMix."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode

from ...core.contracts import height_and_width
from ...core.errors import CapabilityError
from ...core.features import cores

RATIOS = (3 / 4, 4 / 3)
TRIES = 10
FEW = 2**16
"""Pixels of all views below which threads cost more than they save."""
CHAINS, LONGEST_CHAIN = 3, 3
LEVELS = (0.01, 0.1)
"""How strong an operation of AugMix is, of its largest: severity 1 of 10."""


def random_views(
    image: Any,
    count: int,
    size: int | tuple[int, int],
    transform: Callable[[Any], Tensor],
    *,
    scale: tuple[float, float],
    augmix: bool,
    seed: int,
) -> Tensor:
    """(count, 3, S, S) pixels of random resized crops, flipped at random; a pure function of the image and the seed.

    Args:
        image: decoded, (H, W) or (H, W, 3), uint8, or float32 in 0..1.
        count: how many.
        size: that crops are resized to, the side of squares or (H, W).
        transform: decoded image -> pixels (3, S, S).
        scale: smallest and largest share of the image's area that a crop keeps.
        augmix: mix each crop with chains of operations on it: AugMix, Hendrycks et al., 2019, arXiv 1912.02781.
        seed: with the content of the image it fixes every draw.

    Raises:
        CapabilityError: no single image.
    """
    array = np.asarray(image)
    if array.ndim not in (2, 3):
        raise CapabilityError(
            f"random views are made of single images, and this is a clip or volume of shape {array.shape}"
        )
    # Four numbers that stand for an image.
    digest = hashlib.sha256(f"{array.shape} {array.dtype} ".encode() + array.tobytes()).digest()
    draws = np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype="<u4")]).spawn(count + 1)
    boxes = random_boxes(*array.shape[:2], count, scale, draws[0])

    def view(number: int) -> Tensor:
        top, left, rows, columns = boxes[number]
        rng = draws[number + 1]
        crop = _resized(array[top : top + rows, left : left + columns], height_and_width(size))
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        return _mixed(crop, transform, rng) if augmix else transform(np.ascontiguousarray(crop))

    if count * math.prod(height_and_width(size)) < FEW:
        return torch.stack([view(number) for number in range(count)])
    with ThreadPoolExecutor(cores(), thread_name_prefix="view") as threads:
        return torch.stack(list(threads.map(view, range(count))))


def random_boxes(
    height: int, width: int, count: int, scale: tuple[float, float], rng: np.random.Generator
) -> list[list[int]]:
    """Top, left, height and width of `count` crops, of a random share of the area and a random aspect ratio.

    Of ten drawn sizes the first that fits is taken; where none does, the largest centred one within the ratios.
    """
    share = rng.uniform(*scale, (count, TRIES))
    ratio = np.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), (count, TRIES)))
    rows = np.rint(np.sqrt(height * width * share / ratio)).astype(int)
    columns = np.rint(np.sqrt(height * width * share * ratio)).astype(int)
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)  # (count, TRIES)
    first, some = fits.argmax(axis=1)[:, None], fits.any(axis=1)
    place = rng.random((2, count))
    rows, columns = (np.take_along_axis(sizes, first, axis=1)[:, 0] for sizes in (rows, columns))
    rows = np.where(some, rows, min(height, max(1, round(width / RATIOS[0]))))
    columns = np.where(some, columns, min(width, max(1, round(height * RATIOS[1]))))
    place = np.where(some, place, 0.5)
    top, left = (place * (np.array([height, width])[:, None] - [rows, columns] + 1)).astype(int)
    return np.stack([top, left, rows, columns], axis=1).tolist()


def _resized(crop: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """(H, W, ...) of the kind of the crop, bicubic."""
    if crop.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize(sides[::-1], Image.Resampling.BICUBIC))
    channels = torch.from_numpy(np.ascontiguousarray(crop if crop.ndim == 3 else crop[..., None])).permute(2, 0, 1)
    resized = TF.resize(channels.float(), list(sides), InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    return resized.permute(1, 2, 0).numpy().reshape(*sides, *crop.shape[2:])


def _mixed(crop: np.ndarray, transform: Callable[[Any], Tensor], rng: np.random.Generator) -> Tensor:
    """AugMix of one view: m of the crop itself, and the rest of three chains of one to three operations each.

    Operations are of 8 bits, so images of more bits lose them in the chains.
    """
    start = Image.fromarray(crop if crop.dtype == np.uint8 else np.rint(255 * crop).astype(np.uint8)).convert("RGB")
    weights, kept = rng.dirichlet([1.0] * CHAINS), rng.beta(1.0, 1.0)
    mixed = kept * transform(np.ascontiguousarray(crop))
    for weight in weights:
        chain = start
        for _ in range(rng.integers(1, LONGEST_CHAIN + 1)):
            chain = OPERATIONS[rng.integers(len(OPERATIONS))](chain, rng)
        mixed = mixed + float((1 - kept) * weight) * transform(np.asarray(chain))
    return mixed.float()


def _level(rng: np.random.Generator, largest: float) -> float:
    return float(rng.uniform(*LEVELS)) * largest


def _signed(rng: np.random.Generator, value: float) -> float:
    return value if rng.random() < 0.5 else -value


def _affine(image: Image.Image, *, x: tuple[float, float] = (0, 0), y: tuple[float, float] = (0, 0)) -> Image.Image:
    """Sheared by the first number of a direction and shifted by the second, in pixels."""
    matrix = (1, x[0], x[1], y[0], 1, y[1])
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def _shift(image: Image.Image, rng: np.random.Generator) -> int:
    return int(_signed(rng, int(_level(rng, image.width / 3))))


OPERATIONS: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (
    lambda image, rng: ImageOps.autocontrast(image),
    lambda image, rng: ImageOps.equalize(image),
    lambda image, rng: ImageOps.posterize(image, 4 - int(_level(rng, 4))),
    lambda image, rng: image.rotate(_signed(rng, int(_level(rng, 30))), resample=Image.Resampling.BILINEAR),
    lambda image, rng: ImageOps.solarize(image, 256 - int(_level(rng, 256))),
    lambda image, rng: _affine(image, x=(_signed(rng, _level(rng, 0.3)), 0)),
    lambda image, rng: _affine(image, y=(_signed(rng, _level(rng, 0.3)), 0)),
    lambda image, rng: _affine(image, x=(0, _shift(image, rng))),
    lambda image, rng: _affine(image, y=(0, _shift(image, rng))),
)
"""Those of AugMix that no test corruption is made of."""
