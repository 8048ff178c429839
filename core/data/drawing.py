"""What samples drawn by code have in common: who draws, textures, shapes, light, and how they become pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.items import Item, Target


@dataclass(frozen=True)
class Drawing:
    """A set of images that code draws, the same on every machine.

    Args:
        code: the file of that code, `__file__`; it stands as the source of each item.
        version: part of each image's identity, so of its stored features and of the seeds of its augmented views.
            Whoever changes what is drawn gives another; other edits must not, or documented figures would move.
        between: what stands between the version and the parts of an image's identity.
    """

    code: str
    version: str
    between: str = " "

    def item(
        self,
        id_: str,
        *parts: object,
        target: Target | None = None,
        group: str | None = None,
        split: str = "",
        **decode: Any,
    ) -> Item:
        """An image that is drawn when it is asked for.

        Args:
            parts: what tells it from others.
            target, group, split: of `Item`.
            decode: what it is drawn from.
        """
        digest = hashlib.sha256(self.between.join(map(str, (self.version, *parts))).encode()).hexdigest()
        return Item(id_, Path(self.code), {**decode, "digest": digest}, target, group=group, split=split)

    @staticmethod
    def pixels(shares: np.ndarray) -> np.ndarray:
        """uint8 of shares of white; what is out of 0 to 1 is clipped."""
        return (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)

    @staticmethod
    def hazy(colours: np.ndarray, light: float | np.ndarray, haze: float, air: float = 0.8) -> np.ndarray:
        """Colours in a light, through haze of a grey."""
        return colours * light * (1 - haze) + air * haze

    @staticmethod
    def clouds(generator: np.random.Generator, side: int, grain: float) -> np.ndarray:
        """(side, side) smooth noise of deviation 1.

        Args:
            grain: deviation of the blur, in pixels.
        """
        from scipy.ndimage import gaussian_filter

        noise = gaussian_filter(generator.normal(size=(side, side)), grain)
        return noise / noise.std()

    @staticmethod
    def smooth_field(height: int, width: int, seed: int, order: int = 3) -> np.ndarray:
        """(H, W) float64 from -1 to 1, which varies slowly (coils, light, haze): a random polynomial of the place.

        Args:
            order: of the polynomial.
        """
        generator = np.random.default_rng(seed)
        y, x = (np.linspace(-1, 1, side) for side in (height, width))
        powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i) if i + j]
        factors = generator.uniform(-1, 1, len(powers))
        field = sum(factor * np.outer(y**i, x**j) for factor, (i, j) in zip(factors, powers))
        field = field - (field.max() + field.min()) / 2
        return field / max(np.abs(field).max(), 1e-9)

    @staticmethod
    def soft(distance: np.ndarray) -> np.ndarray:
        """1 inside (distance below 0), 0 outside, with a soft edge: the logistic function of -distance."""
        return 1 / (1 + np.exp(np.clip(distance, -40, 40)))

    @staticmethod
    def corners(
        centre: tuple[float, float], radius: float, count: int, *, turn: float = 0.0, inner: float | None = None
    ) -> list[tuple[float, float]]:
        """(x, y) of the corners of a regular polygon, or of a star.

        Args:
            count: of corners on the circle.
            turn: angle of the first one, clockwise from the right.
            inner: radius of the corners between them, as a share; None for a polygon.
        """
        steps = count if inner is None else 2 * count
        reaches = [radius * (inner if inner is not None and step % 2 else 1.0) for step in range(steps)]
        angles = [turn + 2 * np.pi * step / steps for step in range(steps)]
        return [
            (centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle))
            for reach, angle in zip(reaches, angles)
        ]
