"""Slices of volumes with the outlines of structures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from ..intensity import robust_range, scale_to_unit
from ..volumes import Slabs

LEAST_SIDE = 256
"""Pixels; smaller slices are enlarged, so that an outline is a thin line."""


def middle_slice(labels: np.ndarray) -> int:
    """The axial slice, of (Z, Y, X) labels, in the middle of what is labelled; of the volume where nothing is."""
    there = np.flatnonzero(labels.any(axis=(1, 2)))
    return int(there[len(there) // 2]) if len(there) else labels.shape[0] // 2


def outlined_slices(volume: Slabs, at: int, labels: Sequence[np.ndarray]) -> np.ndarray:
    """An axial slice of the first channel as radiologists see it, once for each of some labels (Y, X), next to each
    other, with their outlines: (H, W, 3) uint8."""
    plane = volume.read(at, at + 1)[0, 0]
    height, width = plane.shape[0] * volume.spacing[1], plane.shape[1] * volume.spacing[2]
    scale = max(LEAST_SIDE, *plane.shape) / max(height, width)
    rows = (np.arange(round(height * scale)) / scale / volume.spacing[1]).astype(int).clip(0, plane.shape[0] - 1)
    columns = (np.arange(round(width * scale)) / scale / volume.spacing[2]).astype(int).clip(0, plane.shape[1] - 1)
    seen = np.ix_(rows[::-1], columns[::-1])
    grey = np.rint(255 * scale_to_unit(plane, *robust_range(plane)))[seen].astype(np.uint8)
    pictures = []
    for each in labels:
        picture, shown = np.repeat(grey[..., None], 3, axis=-1), each[seen]
        edge = np.zeros(shown.shape, bool)
        edge[1:] |= shown[1:] != shown[:-1]
        edge[:, 1:] |= shown[:, 1:] != shown[:, :-1]
        inner = np.maximum(shown, np.roll(shown, 1, axis=0))
        inner = np.maximum(inner, np.roll(shown, 1, axis=1))
        for label in np.unique(inner[edge]):
            picture[edge & (inner == label)] = _colour_of(int(label))
        pictures.append(picture)
    gap = np.full((grey.shape[0], 4, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def _colour_of(label: int) -> tuple[int, int, int]:
    """A colour that tells a label from its neighbours."""
    red, green, blue = colorsys.hls_to_rgb(label * 0.618034 % 1, 0.55, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
