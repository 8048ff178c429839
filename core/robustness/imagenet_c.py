"""The corruptions of ImageNet-C: "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
Hendrycks and Dietterich, 2019, arXiv 1903.12261. The package `imagecorruptions` makes them.

It draws from numpy's global generator, which is seeded for each image and put back; two kinds take a seed of their
own. The published set was saved as JPEG, so its images differ from these.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from ..contracts.corruption import Corruption
from ..runtime.process import need_package

PUBLISHED = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The fifteen that the mean error is of."""
FURTHER = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Those of the authors' own held-out set."""
NOT_RISING = frozenset({"frost", "glass_blur"})
"""Whose images do not differ the more from the clean ones, the higher the severity."""
ALEXNET: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }
)
"""AlexNet's error on ImageNet-1k under each, the mean over severities, by which the published mean is scaled."""
SEEDED = frozenset({"glass_blur", "impulse_noise"})
LEAST_SIDE = 32
"""Pixels that an image must have in both directions."""
PACKAGE = "imagecorruptions-imaug"
_DRAWING = threading.Lock()
"""numpy's global generator is one for all threads."""


def corruptions(further: bool = False) -> tuple[Corruption, ...]:
    """The published fifteen, or the further four too.

    Raises:
        CapabilityError: the package is not installed.
    """
    need_package("--holistic", "imagecorruptions", "robustness", PACKAGE)
    names = (*PUBLISHED, *FURTHER) if further else PUBLISHED
    return tuple(Corruption(name.replace("_", " "), partial(_changed, name), name not in NOT_RISING) for name in names)


def mean_corruption_error(errors: Mapping[str, float]) -> float:
    """mCE of ImageNet-1k: the mean of each kind's error, the mean over severities, divided by AlexNet's.

    Args:
        errors: kind, with spaces for underscores -> mean error, in 0..1, of all fifteen.
    """
    return float(np.mean([errors[name.replace("_", " ")] / ALEXNET[name] for name in PUBLISHED]))


def _changed(name: str, image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    import imagecorruptions

    own = {"seed": seed} if name in SEEDED else {}
    with _DRAWING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages' versions
        before = np.random.get_state()
        try:
            np.random.seed(seed)
            return imagecorruptions.corrupt(image, severity=severity, corruption_name=name, **own)
        finally:
            np.random.set_state(before)
