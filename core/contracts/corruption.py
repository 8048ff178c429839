"""A way in which images go wrong, which a domain may have of its own besides those of all photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Args:
        name: of the kind, in words.
        change: (image (H, W, 3) uint8, severity 1 to 5, seed) -> another of that shape; a function of these three.
        rises: whether it changes images the more, the higher the severity.
        of_clips: it takes and gives the frames of a clip, (T, H, W, 3), and images as clips of one frame.
    """

    name: str
    change: Callable[[np.ndarray, int, int], np.ndarray]
    rises: bool = True
    of_clips: bool = False
