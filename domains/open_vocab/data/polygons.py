"""Outlines as polygons along the edges of pixels, for files that hold no encoding."""

from __future__ import annotations

import numpy as np

from .outlines import Outline, outline_mask

LEAST_CORNERS = 3


def polygons_of(outline: Outline, size: tuple[int, int]) -> list[list[float]]:
    """Polygons [x0, y0, x1, y1, ...], the largest first, one per connected part; holes are filled.

    Args:
        outline: a valid one; polygons stay as they are.
        size: (width, height) of the image.
    """
    if isinstance(outline, list):
        return outline
    import cv2

    mask = outline_mask(outline, size)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    doubled = part.repeat(2, axis=0).repeat(2, axis=1)  # so that contours, through centres, tell both edges of a pixel
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    edges = [(contour.reshape(-1, 2) + 1) // 2 + (left, top) for contour in contours]
    edges = [corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)] for corners in edges]
    edges = sorted((corners for corners in edges if len(corners) >= LEAST_CORNERS), key=_area, reverse=True)
    return [[float(value) for value in corners.ravel()] for corners in edges]


def one_polygon(outline: Outline, size: tuple[int, int]) -> list[float]:
    """All parts of an outline as one polygon: it goes to the nearest corner of each further part, around it, and back
    the same way. Empty where there is none."""
    parts = [np.reshape(polygon, (-1, 2)) for polygon in polygons_of(outline, size)]
    if not parts:
        return []
    whole = parts[0]
    for part in parts[1:]:
        apart = np.square(whole[:, None] - part[None]).sum(axis=2)
        here, there = np.unravel_index(apart.argmin(), apart.shape)
        around = np.concatenate([part[there:], part[: there + 1]])
        whole = np.concatenate([whole[: here + 1], around, whole[here:]])
    return [float(value) for value in whole.ravel()]


def _area(corners: np.ndarray) -> float:
    x, y = corners[:, 0].astype(float), corners[:, 1].astype(float)
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
