"""Where a slide shows tissue: what has more colour than glass.

Colour is the largest of a pixel's three values less the smallest, which neither glass nor a black border has. Otsu's
threshold (A Threshold Selection Method from Gray-Level Histograms, Otsu, 1979, doi 10.1109/TSMC.1979.4310076) divides
it, between bounds: a slide that is all glass, or all tissue, is not divided by its noise.
"""

from __future__ import annotations

import numpy as np

LEAST_COLOUR, MOST_COLOUR = 15, 40
"""Of 255: no threshold is lower, none higher."""
PIXEL_UM = 8.0
"""Micrometres along the side of a pixel of the overview in which tissue is sought, or less for small tiles."""
PIECE_UM2 = 10_000.0
"""Smaller pieces are dropped, smaller holes filled: a square of a tenth of a millimetre."""


def tissue_mask(pixels: np.ndarray, pixel_um: float) -> np.ndarray:
    """Where an overview shows tissue.

    Args:
        pixels: (h, w, 3) uint8, on white.
        pixel_um: micrometres along the side of its pixels.

    Returns:
        (h, w) bool.
    """
    import cv2

    smooth = cv2.medianBlur(np.ascontiguousarray(pixels), 3)
    colour = smooth.max(axis=2) - smooth.min(axis=2)
    otsu, _ = cv2.threshold(colour, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = colour > np.clip(otsu, LEAST_COLOUR, MOST_COLOUR)
    smallest = PIECE_UM2 / pixel_um**2
    outside = np.pad(~_without_small(mask, smallest), 1, constant_values=True)  # glass at the border is no hole
    return ~_without_small(outside, smallest, corner=True)[1:-1, 1:-1]


def _without_small(mask: np.ndarray, smallest: float, corner: bool = False) -> np.ndarray:
    """The mask without components of fewer pixels, that of the first pixel aside where `corner` says so."""
    import cv2

    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= smallest
    large[labels[0, 0]] |= corner
    large[0] = False  # of what is no component
    return large[labels]


def shares(mask: np.ndarray, downsample: float, coords: np.ndarray, side: int) -> np.ndarray:
    """How much of each tile is tissue.

    Args:
        mask: (h, w) bool, of an overview.
        downsample: pixels of the largest level along the side of one of its pixels.
        coords: (T, 2) upper left corners in pixels of the largest level.
        side: of a tile in these.

    Returns:
        (T,) float64 in 0..1, exact for a mask of square pixels.
    """
    from scipy.ndimage import map_coordinates

    total = np.pad(mask.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # (h + 1, w + 1)
    left, top = coords.T / downsample
    right, bottom = (coords.T + side) / downsample

    def until(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The area above and to the left, which is bilinear within a pixel."""
        return map_coordinates(total, [y, x], order=1, mode="nearest")

    area = until(right, bottom) - until(left, bottom) - until(right, top) + until(left, top)
    return np.clip(area / (side / downsample) ** 2, 0, 1)
