"""64 bits of how a picture looks: the signs of its lowest frequencies.

pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): copies that were resized or
stored again differ in few bits, different pictures in about half of them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE, KEPT = 32, 8


def perceptual_hash(image: Image.Image) -> int:
    """The hash of a picture, from 0 to 2^64 - 1.

    Of 32 x 32 levels of grey the 8 x 8 lowest frequencies of the discrete cosine transform, each compared with the
    median of all but the constant one.
    """
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dctn(grey, norm="ortho")[:KEPT, :KEPT].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
