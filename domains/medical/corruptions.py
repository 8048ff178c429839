"""How scans go wrong: another window of grey levels, and the slow shading of a coil or a lamp."""

from __future__ import annotations

import numpy as np

from ...core.contracts import Corruption
from ...core.data import Drawing

SHIFTS = (0.04, 0.08, 0.12, 0.16, 0.2)
"""Of the window's centre, up or down, as a share of all grey levels."""
WIDTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""By which the window is wider or narrower, as a share of its width."""
FIELDS = (0.1, 0.2, 0.3, 0.45, 0.6)
"""Largest logarithm of the shading."""


def window_shift(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """The same image in another window of grey levels."""
    up, wider = np.random.default_rng(seed).choice((-1, 1), 2)
    centre, width = 0.5 + up * SHIFTS[severity - 1], 1 + wider * WIDTHS[severity - 1]
    levels = (image / 255 - centre) / width + 0.5
    return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)


def bias_field(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """The image times a smooth field, as an uneven coil leaves it."""
    height, width = image.shape[:2]
    field = np.exp(FIELDS[severity - 1] * Drawing.smooth_field(height, width, seed))
    return np.rint(np.clip(image * field[..., None], 0, 255)).astype(np.uint8)


CORRUPTIONS = (Corruption("window shift", window_shift), Corruption("bias field", bias_field))
