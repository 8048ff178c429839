"""Changes of light for images of any number of bands and any depth, in place of those of colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from .....core.contracts import require
from .....registry import TRANSFORMS


@TRANSFORMS.register_module()
class BandDistortion(BaseTransform):
    """Brightness and contrast of a whole image, and the gain of each band, each in half of all images.

    mm's PhotoMetricDistortion does the first two alike, and changes hue and saturation, which only red, green and blue
    have; it rounds to 8 bits, and this does not.

    Args:
        brightness_delta: most that is added to values in 0..255.
        contrast_range: least and most that all are multiplied by.
        gain_range: the same of each band by itself.

    Raises:
        ConfigError: an option is not usable.
    """

    def __init__(
        self,
        brightness_delta: float = 32.0,
        contrast_range: Sequence[float] = (0.5, 1.5),
        gain_range: Sequence[float] = (0.9, 1.1),
    ):
        require(brightness_delta >= 0, "brightness_delta", brightness_delta, "give 0 or more")
        for name, (low, high) in (("contrast_range", contrast_range), ("gain_range", gain_range)):
            require(0 < low <= high, name, (low, high), "give least and most, above 0")
        self.brightness_delta = brightness_delta
        self.contrast_range, self.gain_range = tuple(contrast_range), tuple(gain_range)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """(H, W, C) img of the same type."""
        pixels = results["img"].astype(np.float32)
        if np.random.randint(2):
            pixels += np.random.uniform(-self.brightness_delta, self.brightness_delta)
        if np.random.randint(2):
            pixels *= np.random.uniform(*self.contrast_range)
        if np.random.randint(2):
            pixels *= np.random.uniform(*self.gain_range, pixels.shape[-1]).astype(np.float32)
        kind, pixels = results["img"].dtype, pixels.clip(0, 255)
        results["img"] = pixels.round().astype(kind) if kind == np.uint8 else pixels.astype(kind)
        return results

    def __repr__(self) -> str:
        options = f"contrast_range={self.contrast_range}, gain_range={self.gain_range}"
        return f"{type(self).__name__}(brightness_delta={self.brightness_delta}, {options})"
