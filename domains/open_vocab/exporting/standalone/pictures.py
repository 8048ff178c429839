"""Pictures as the graphs beside this file take them; needs numpy and pillow."""

import numpy as np
from PIL import Image, ImageOps


def decoded(path):
    """(H, W, 3) uint8: upright, transparent pixels over white, deeper than 8 bits scaled to them."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            values, full = np.asarray(image).astype(np.float64), 1.0 if image.mode == "F" else 65535.0
            low, high = values.min(), values.max()
            values = (values - low) / ((high - low) or 1.0) if low < 0 or high > full else values / full
            return np.repeat(np.rint(values.astype(np.float32) * 255).astype(np.uint8)[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def resized(values, height, width):
    """(h, w, C) float32 -> (height, width, C), linear between the middles of pixels."""
    for axis, (old, new) in enumerate(zip(values.shape, (height, width))):
        places = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        share = (places % 1).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        low, high = places.astype(int), np.minimum(places.astype(int) + 1, old - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share if old != new else values
    return values


def pixels(image, how):
    """(1, 3, H, W) as the graph takes them, and the (height, width) of the picture in them; `how`: "preprocessing"."""
    size, largest = np.array(image.shape[:2]), how["largest"] or image.shape[:2]
    scale = min(max(largest) / size.max(), min(largest) / size.min())
    height, width = size if scale >= 1 and not how["enlarge"] else (size * scale + 0.5).astype(int)
    planes = np.rint(resized(image.astype(np.float32), height, width))
    planes = planes if how["channels"] == "rgb" else planes[..., ::-1]
    planes = (planes - np.float32(how["mean"])) / np.float32(how["std"])
    margins = ((0, -height % how["multiple"]), (0, -width % how["multiple"]), (0, 0))
    planes = np.pad(planes, margins, constant_values=how["padding"]).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(planes, dtype=np.float32), (int(height), int(width))
