"""Decoded samples whose parts differ in size, as the views of a study do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class UnequalParts(np.ndarray):
    """Decoded parts of unequal size, (T, H, W, 3): each lies in the upper left corner, and beside it all is 0.

    Whoever shows a sample with parts takes it as any other; `each` gives the parts themselves.

    Attributes:
        sizes: T heights and widths. What is cut out of it has none, and its parts are taken as they lie.
    """

    sizes: Sequence[tuple[int, int]] = ()

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> UnequalParts:
        """Of T pictures (H, W, 3), uint8 where all are, else float32 in 0..1."""
        dtype = np.uint8 if all(part.dtype == np.uint8 for part in parts) else np.float32
        sizes = [part.shape[:2] for part in parts]
        stacked = np.zeros((len(parts), *np.max(sizes, axis=0), parts[0].shape[2]), dtype)
        for place, part in zip(stacked, parts, strict=True):
            scaled = part / np.float32(255) if part.dtype == np.uint8 != dtype else part
            place[: part.shape[0], : part.shape[1]] = scaled
        parts_of_sample = stacked.view(cls)
        parts_of_sample.sizes = sizes
        return parts_of_sample

    @staticmethod
    def each(parts: np.ndarray) -> list[np.ndarray]:
        """The T pictures (H, W, 3) of a decoded sample with parts, of one size or not."""
        sizes = getattr(parts, "sizes", ()) or [parts.shape[1:3]] * len(parts)
        return [np.ascontiguousarray(part[:height, :width]) for part, (height, width) in zip(parts, sizes, strict=True)]
