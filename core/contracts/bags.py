"""Samples of so many parts that they are read one sample at a time: the tiles of a slide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Tiles(Protocol):
    """The tiles of one sample, as they lie in its file: none is decoded before it is asked for.

    Attributes:
        coords: (T, 2) int64, x and y of their upper left corners in pixels of the largest level.
        attributes: JSON-able: "side" of a tile as it is read, in pixels; "level0_side", the same in pixels of the
            largest level; "mpp", micrometres per pixel as it is read; "width" and "height" of the largest level.
    """

    coords: np.ndarray
    attributes: Mapping[str, Any]

    def read(self, rows: range) -> np.ndarray:
        """(k, side, side, 3) uint8, the pixels of some tiles; what the file does not have is white.

        Raises:
            DataError: the file is damaged there.
        """
