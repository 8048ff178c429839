"""A corruption of images, and a transform that corrupts them before a tower sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..contracts.images import ImageSize, height_and_width
from ..contracts.items import Decoded

SEVERITIES = (1, 2, 3, 4, 5)
CHANNELS = 3


@dataclass(frozen=True)
class Corruption:
    """One way in which images go wrong.

    Args:
        name: of the kind, in words.
        change: (image (H, W, 3) uint8, severity 1 to 5, seed) -> another of that shape; a function of these three.
        rises: whether it changes images the more, the higher the severity.
    """

    name: str
    change: Callable[[np.ndarray, int, int], np.ndarray]
    rises: bool = True


class Corrupted:
    """A transform before which images are corrupted, at the size that the tower sees; severity 0 only resizes them.

    Which noise an image gets depends on the seed, the corruption, the severity and its pixels alone.

    Args:
        transform: decoded image -> pixels.
        size: of the tower's images, whose shorter side those that are corrupted have.
        corruption: None for severity 0.
        severity: 0 to 5.
        seed: of what is random.
    """

    def __init__(
        self,
        transform: Callable[..., Any],
        size: ImageSize,
        corruption: Corruption | None = None,
        severity: int = 0,
        seed: int = 0,
    ):
        self.transform, self.side = transform, min(height_and_width(size))
        self.corruption, self.severity, self.seed = corruption, severity, seed

    @property
    def spec(self) -> dict[str, Any]:
        kind = None if self.corruption is None else self.corruption.name
        inner = getattr(self.transform, "spec", None)
        return {"corruption": kind, "severity": self.severity, "seed": self.seed, "side": self.side, "then": inner}

    def __call__(self, decoded: Decoded, seed: int | None = None) -> Any:
        frames = decoded if decoded.ndim == 4 else decoded[None]
        changed = np.stack([self._changed(frame) for frame in frames])
        return self.transform(changed if decoded.ndim == 4 else changed[0])

    def _changed(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) in its own type, at the size that the tower sees."""
        levels = image if image.dtype == np.uint8 else np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype("u1")
        resized = _shorter_side(np.ascontiguousarray(levels), self.side)
        if self.corruption is not None and self.severity:
            resized = self.corruption.change(resized, self.severity, self._seed_of(levels))
        return resized if image.dtype == np.uint8 else (resized / 255).astype(image.dtype)

    def _seed_of(self, levels: np.ndarray) -> int:
        """32 bits."""
        kind = "" if self.corruption is None else self.corruption.name
        digest = hashlib.blake2b(f"{self.seed} {kind} {self.severity} {levels.shape}".encode(), digest_size=4)
        digest.update(np.ascontiguousarray(levels).tobytes())
        return int.from_bytes(digest.digest(), "big")


def _shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) == side:
        return image
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
