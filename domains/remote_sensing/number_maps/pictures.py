"""Numbers of pixels as pictures: maps in viridis with a colour bar, errors, and predicted against true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COLOURS, OF_ERRORS, NOTHING = "viridis", "RdBu_r", "#d0d0d0"
RANGE = (1.0, 99.0)
"""Percentiles between which a colour map runs."""
BINS = 50
INCHES, DOTS = 3.0, 110


@dataclass(frozen=True)
class ShownWindow:
    """A window as a report shows it: pixels (h, w, C) in 0..1, true and predicted numbers (h, w), NaN for none."""

    name: str
    pixels: np.ndarray
    truth: np.ndarray
    values: np.ndarray


def _range_of(*maps: np.ndarray) -> tuple[float, float]:
    """Lowest and highest number that colours tell apart; 0 and 1 where there is none."""
    numbers = np.concatenate([each[np.isfinite(each)].ravel() for each in maps])
    if not len(numbers):
        return 0.0, 1.0
    low, high = np.percentile(numbers, RANGE)
    return float(low), float(high if high > low else low + 1)


def window_examples(shown: Sequence[ShownWindow], unit: str) -> list[tuple[np.ndarray, str]]:
    """(picture, name) of each window: image, true, predicted, and the error; all on one scale."""
    if not shown:
        return []
    low, high = _range_of(*[of for each in shown for of in (each.truth, each.values)])
    errors = [each.values - each.truth for each in shown]
    reach = max(abs(bound) for bound in _range_of(*errors))
    pictures = []
    for each, error in zip(shown, errors):
        figure, axes = _figure(4 * INCHES, INCHES, columns=4)
        axes[0].imshow(as_rgb(each.pixels))
        for axis, of in zip(axes[1:3], (each.truth, each.values)):
            drawn = axis.imshow(of, cmap=_colours(COLOURS), vmin=low, vmax=high)
        _bar(figure, drawn, axes[2], unit)
        _bar(figure, axes[3].imshow(error, cmap=_colours(OF_ERRORS), vmin=-reach, vmax=reach), axes[3], unit)
        for axis, title in zip(axes, ("image", "true", "predicted", "error")):
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
        pictures.append((_pixels(figure), each.name))
    return pictures


def density(truth: np.ndarray, values: np.ndarray, unit: str) -> np.ndarray:
    """(H, W, 3) uint8: how many pixels have which true and predicted number, with the line where both are equal."""
    low, high = min(truth.min(), values.min()), max(truth.max(), values.max())
    figure, axes = _figure(1.7 * INCHES, 1.5 * INCHES)
    of_unit = f", {unit}" if unit else ""
    extent = (low, max(high, low + 1e-6))
    drawn = axes[0].hexbin(truth, values, gridsize=BINS, bins="log", mincnt=1, cmap=COLOURS, extent=(*extent, *extent))
    axes[0].plot(extent, extent, "--", color="#808080", linewidth=1)
    axes[0].set_xlabel(f"true{of_unit}")
    axes[0].set_ylabel(f"predicted{of_unit}")
    _bar(figure, drawn, axes[0], "pixels")
    return _pixels(figure)


def map_picture(values: np.ndarray, name: str, unit: str) -> np.ndarray:
    """(H, W, 3) uint8: a map (h, w) in colours, with a colour bar; grey where it is NaN."""
    height, width = values.shape
    scale = 6.0 / max(height, width)
    figure, axes = _figure(max(2.0, width * scale) + 1.4, max(2.0, height * scale) + 0.4)
    low, high = _range_of(values)
    drawn = axes[0].imshow(values, cmap=_colours(COLOURS), vmin=low, vmax=high, interpolation="nearest")
    axes[0].set_axis_off()
    _bar(figure, drawn, axes[0], f"{name}{f', {unit}' if unit else ''}")
    return _pixels(figure)


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) of an image with any number of channels: the first three, or the first as grey."""
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _colours(name: str) -> Any:
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=NOTHING)


def _bar(figure: Any, drawn: Any, axis: Any, label: str) -> None:
    figure.colorbar(drawn, ax=axis, shrink=0.85, label=label)


def _pixels(figure: Any) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
