"""A transform that corrupts images before a tower sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ..contracts.corruption import Corruption
from ..contracts.images import ImageSize, height_and_width
from ..contracts.items import Decoded

CHANNELS = 3


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
        changed = self._changed(_levels(frames))
        changed = changed if decoded.dtype == np.uint8 else (changed / 255).astype(decoded.dtype)
        return self.transform(changed if decoded.ndim == 4 else changed[0])

    def _changed(self, frames: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8, at the size that the tower sees."""
        resized = np.stack([_shorter_side(frame, self.side) for frame in frames])
        if self.corruption is None or not self.severity:
            return resized
        drawn_by = f"{self.seed} {self.corruption.name} {self.severity} {frames.shape}"
        digest = hashlib.blake2b(drawn_by.encode(), digest_size=4)
        digest.update(np.ascontiguousarray(frames).tobytes())
        change, seed = self.corruption.change, int.from_bytes(digest.digest(), "big")
        if self.corruption.of_clips:
            return change(resized, self.severity, seed)
        return np.stack([change(frame, self.severity, seed) for frame in resized])


def _levels(frames: np.ndarray) -> np.ndarray:
    """As contiguous uint8."""
    if frames.dtype != np.uint8:
        frames = np.rint(np.clip(np.nan_to_num(frames), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(frames)


def _shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) == side:
        return image
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
