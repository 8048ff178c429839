"""Haze as a step of albumentations: what it has of its own is for three bands of 8 bits."""

from __future__ import annotations

import albumentations as A
import numpy as np


class Haze(A.ImageOnlyTransform):
    """Air between the ground and the camera: each band keeps a share of its light, the rest is bright grey.

    Args:
        most: largest share of the light that is replaced.
        airlight: brightness of the air, lowest and highest.
    """

    def __init__(self, most: float, airlight: tuple[float, float] = (0.7, 1.0), p: float = 0.5):
        super().__init__(p=p)
        self.most, self.airlight = most, airlight

    def get_params(self) -> dict[str, float]:
        return {"share": self.py_random.uniform(0, self.most), "air": self.py_random.uniform(*self.airlight)}

    def apply(self, img: np.ndarray, share: float, air: float, **params) -> np.ndarray:
        return img * np.float32(1 - share) + np.float32(share * air)  # (H, W, B), scattering model I = J t + A (1 - t)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("most", "airlight")
