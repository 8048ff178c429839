"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np

SIDE = 168


def data_uri(image: np.ndarray, side: int = SIDE) -> str:
    """A decoded image as a small JPEG in a data: address.

    Args:
        image: (H, W, 3) uint8, or float in 0..1; of a clip (T, H, W, 3) the middle frame is shown.
        side: the longer side in pixels; smaller images keep their size.
    """
    from PIL import Image

    image = np.asarray(image)
    if image.ndim == 4:
        image = image[len(image) // 2]
    if image.dtype != np.uint8:
        image = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
