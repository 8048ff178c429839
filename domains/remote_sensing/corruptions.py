"""How pictures from above go wrong: haze, and a band that fails."""

from __future__ import annotations

import numpy as np

from ...core.contracts import Corruption
from ...core.data import Drawing

HAZE = (0.15, 0.3, 0.45, 0.6, 0.75)
"""Share of the light that comes from the haze, on average."""
AIRLIGHT = np.array([0.85, 0.88, 0.92])
"""Of red, green and blue: haze is a little blue."""
FAILING = (0.5, 0.7, 0.85, 0.95, 1.0)
"""Share of a band that is lost."""


def haze(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """J t + A (1 - t), of an air that is thinner here and thicker there (Koschmieder, 1924)."""
    height, width = image.shape[:2]
    lost = HAZE[severity - 1] * (1 + Drawing.smooth_field(height, width, seed) / 4)
    lost = np.clip(lost, 0, 1)[..., None]
    return np.rint(image * (1 - lost) + 255 * AIRLIGHT * lost).astype(np.uint8)


def dropped_band(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """One band, drawn for the image, loses most of its light, at last all."""
    band = int(np.random.default_rng(seed).integers(image.shape[2]))
    left = image.astype(np.float64)
    left[..., band] *= 1 - FAILING[severity - 1]
    return np.rint(left).astype(np.uint8)


CORRUPTIONS = (Corruption("haze", haze), Corruption("dropped band", dropped_band))
