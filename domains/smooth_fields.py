"""Fields that vary slowly over an image: of coils, of light, of haze."""

from __future__ import annotations

import numpy as np


def smooth_field(height: int, width: int, seed: int, order: int = 3) -> np.ndarray:
    """(H, W) float64 from -1 to 1: a random polynomial of the place.

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
