"""What is computed of images and of the objects in them: brightness, sharpness, aspect, size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..contracts.items import Boxes, Decoded, DomainData, Item, Mask
from ..errors import ConfigError, DataError

IGNORED, BACKGROUND, OBJECT_SIZE = 255, "background", "object-size"


def brightness(image: Decoded) -> float:
    """Mean grey level, 0 to 1."""
    return float(np.nanmean(_grey(image)))


def sharpness(image: Decoded) -> float:
    """Variance of the Laplacian of the grey levels 0 to 255: low where an image is blurred ("Diatom autofocusing in
    brightfield microscopy: a comparative study", Pech-Pacheco et al., 2000)."""
    import cv2

    frames = np.nan_to_num(255 * _grey(image))
    return float(np.mean([cv2.Laplacian(frame, cv2.CV_64F).var() for frame in frames]))


def aspect(image: Decoded) -> float:
    """Width divided by height."""
    height, width = image.shape[-3:-1]
    return width / height


OF_IMAGES: Mapping[str, Callable[[Decoded], float]] = {
    "brightness": brightness,
    "sharpness": sharpness,
    "aspect": aspect,
}
FACTORS = (*OF_IMAGES, OBJECT_SIZE)


def check_factors(names: Sequence[str], data: DomainData) -> None:
    """Raise the ConfigError of factors that cannot be computed of these data.

    Args:
        names: some of `FACTORS`.
    """
    if names and not data.has_images:
        raise ConfigError(
            f"--by {names[0]}: {data.name} has no images to measure, and no column of that name; give a features file "
            f"with an array '{names[0]}' of a number per row"
        )
    if OBJECT_SIZE in names and not any(map(_holds_objects, data.items)):
        raise ConfigError(f"--by {OBJECT_SIZE}: {data.name} has no boxes and no masks; give another factor or column")


def factor_values(
    names: Sequence[str], data: DomainData, items: Sequence[Item], progress: Callable[[int, int], None]
) -> dict[str, list[float]]:
    """Name -> a value per item, NaN where there is none. Each image is decoded once, one after another.

    Args:
        names: some of `FACTORS`.
        items: n samples.
        progress: is told how many are done, of how many.
    """
    values: dict[str, list[float]] = {name: [] for name in names}
    of_images = [name for name in names if name in OF_IMAGES]
    for done, item in enumerate(items, start=1):
        image = _decoded(data, item) if of_images else None
        for name in names:
            if name == OBJECT_SIZE:
                value = object_size(data, item)
            else:
                value = math.nan if image is None else OF_IMAGES[name](image)
            values[name].append(value)
        progress(done, len(items))
    return values


def object_size(data: DomainData, item: Item) -> float:
    """Side in pixels of a square as large as the object: the box that is cut out, or the largest of several; of a mask
    all pixels of a class but the background. NaN where there is none."""
    target = item.target
    objects = target.outlines if isinstance(target, Mask) else target
    if isinstance(objects, Boxes):
        return math.sqrt(max((_area(box) for box in objects.boxes), default=math.nan))
    if isinstance(target, Mask) and target.file is not None and data.load_mask is not None:
        mask = data.load_mask(item)
        none = [index for index, name in enumerate(data.class_names) if name.lower() == BACKGROUND]
        pixels = int((~np.isin(mask, [IGNORED, *none])).sum())
        return math.sqrt(pixels) if pixels else math.nan
    return math.sqrt(_area(item.decode["box"])) if _is_cut_out(item) else math.nan


def _holds_objects(item: Item) -> bool:
    return isinstance(item.target, (Boxes, Mask)) or _is_cut_out(item)


def _is_cut_out(item: Item) -> bool:
    """Whether the sample is an object in a picture, and no window on one, which says nothing of what it shows."""
    return "box" in item.decode and not item.apart


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _decoded(data: DomainData, item: Item) -> Decoded | None:
    try:
        return data.load(item)
    except DataError:  # it was told where the image was encoded, or its features lie in the store
        return None


def _grey(image: Decoded) -> np.ndarray:
    """(T, H, W) float64 in 0 to 1: the mean over channels, of 8 bits or of numbers from 0 to 1."""
    frames = image if image.ndim == 4 else image[None]
    if frames.shape[-1] == 3:
        grey = frames.astype(np.float64) @ np.array([0.299, 0.587, 0.114])  # as of television, ITU-R BT.601
    else:
        grey = frames.mean(axis=-1, dtype=np.float64)
    return grey / 255 if image.dtype == np.uint8 else grey
