"""From measured values (Hounsfield units, MR signal, dose) to intensities in 0..1.

A window is told by a preset's name, by "centre,width", or is "minmax" or "zscore". Scaling is MONAI's.
"""

from __future__ import annotations

import numpy as np

from ...core.errors import ConfigError, UnknownNameError, did_you_mean

PRESETS: dict[str, tuple[float, float]] = {
    "abdomen": (60.0, 400.0),
    "angiography": (300.0, 600.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 160.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 350.0),
    "soft-tissue": (40.0, 400.0),
    "spine": (50.0, 300.0),
    "stroke": (35.0, 35.0),
    "subdural": (75.0, 215.0),
}
"""Name -> centre and width in Hounsfield units, as radiology workstations commonly set them."""

MINMAX, ZSCORE = "minmax", "zscore"
SHOWN_DEVIATIONS = 3.0
"""Standard deviations on either side of the mean that z-scores are shown to."""
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
SAMPLED_VALUES = 1 << 20


def check_window(window: str | tuple[float, float] | list[float] | None) -> str | None:
    """A window option in its one spelling: a preset's name, "centre,width", "minmax", "zscore", or None (as the
    file says).

    Raises:
        UnknownNameError: no preset has that name.
        ConfigError: a width that is not above 0.
    """
    if window is None:
        return None
    if isinstance(window, (tuple, list)):
        window = ",".join(str(value) for value in window)
    name = str(window).strip().lower().replace("_", "-").replace(" ", "-")
    if name in (*PRESETS, MINMAX, ZSCORE):
        return name
    if "," not in name:
        nearest = did_you_mean(name, [*PRESETS, MINMAX, ZSCORE])
        raise UnknownNameError(f"no preset '{window}'; {nearest} Or give \"centre,width\"")
    try:
        centre, width = (float(part) for part in str(window).split(","))
    except ValueError:
        raise ConfigError('give a preset\'s name, or two numbers "centre,width"') from None
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        raise ConfigError("centre and width must be finite, the width above 0")
    return f"{centre:g},{width:g}"


def is_preset(window: str | None) -> bool:
    """Whether a window is meant in Hounsfield units."""
    return window in PRESETS


def window_range(window: str, values: np.ndarray) -> tuple[float, float]:
    """The values that become 0 and 1 under a window that `check_window` gave."""
    if window == MINMAX:
        return float(values.min()), float(values.max())
    if window == ZSCORE:
        counted = values[values != 0] if values.any() else values
        return zscore_range(float(counted.mean(dtype=np.float64)), float(counted.std(dtype=np.float64)))
    centre, width = PRESETS.get(window) or (float(part) for part in window.split(","))
    return centre - width / 2, centre + width / 2


def zscore_range(mean: float, deviation: float) -> tuple[float, float]:
    """The values that z-scores of -3 and 3 belong to; both the mean where all values are one.

    The mean and the standard deviation are those of a whole volume, or image, without its zeros, as of MONAI's
    `NormalizeIntensity(nonzero=True)`: in magnetic resonance they are air.
    """
    return mean - SHOWN_DEVIATIONS * deviation, mean + SHOWN_DEVIATIONS * deviation


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 (of evenly spaced values where there are more than a million), free of outliers.

    Where nearly everything is one value, as in a mask or around a small object, minimum and maximum instead.
    """
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // SAMPLED_VALUES)]
    low, high = (float(v) for v in np.percentile(flat, (LOW_PERCENTILE, HIGH_PERCENTILE)))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def scale_to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Same shape, float32: `low` becomes 0, `high` 1, what lies outside is cut off. A flat image becomes 0."""
    if not high > low:
        return np.zeros(values.shape, dtype=np.float32)
    from monai.transforms.intensity.array import ScaleIntensityRange

    scaled = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(values.astype(np.float32))
    return np.asarray(scaled, dtype=np.float32)


def to_rgb(grey: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
