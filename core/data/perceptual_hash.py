"""64 bits of how a picture looks: the signs of its lowest frequencies."""

from __future__ import annotations

import numpy as np

from .registration import COMPARED, low_spectra, shows_enough

NO_HASH = 0
"""Of an image that is flat, or shows something in few of its parts: there is nothing by which copies could be told."""


def perceptual_hashes(grey: np.ndarray) -> np.ndarray:
    """(N,) uint64: which of the lowest frequencies of the discrete cosine transform are above their median, as in pHash
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), of equalised grey levels,
    which no change of brightness, contrast or gamma alters.

    Args:
        grey: (N, 32, 32) uint8 thumbnails.
    """
    if not len(grey):
        return np.zeros(0, np.uint64)
    spectra = low_spectra(grey).reshape(len(grey), COMPARED**2)
    above = spectra > np.median(spectra[:, 1:], axis=1, keepdims=True)  # the first is the mean, which is left out
    above[:, 0] = True  # so that no hash is `NO_HASH`
    hashes = np.packbits(above, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)
    return np.where(shows_enough(grey), hashes, np.uint64(NO_HASH))
