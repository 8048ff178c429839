"""RandAugment, as the code that prompt learners share has it: two of 15 operations, each left out at times.

"RandAugment: Practical automated data augmentation with a reduced search space" (Cubuk et al., 2019, arXiv 1909.13719);
ranges, and the chance of each operation, are those of "randaugment2" in Dassl, which POMP publishes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps

COUNT = 2
CHANCE = 0.6
"""Of each operation that was drawn."""


def randaugment(image: Image.Image, generator: torch.Generator | None = None) -> Image.Image:
    """An RGB image through `COUNT` drawn operations.

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
