"""What a model found, drawn on the picture: boxes and masks with names and scores, or a map of classes with its key."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MASK_SHARE = 0.45
"""How much of a pixel's colour its mask is."""
Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""
LEGIBLE = 384
"""Longer side in pixels from which on names can be read beside what they name; smaller pictures are enlarged."""


def colour_of(label: int) -> tuple[int, int, int]:
    """A colour for a class, told apart from its neighbours' by the golden ratio."""
    hue, light = label * 0.618034 % 1, (0.5, 0.4, 0.6)[label % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.85))


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """A copy of an image with boxes, their texts above them, and masks in the boxes' colours. A text that would cover
    another one goes below its box, or further down.

    Args:
        image: (H, W, 3) uint8.
        boxes: (n, 4) x0, y0, x1, y1 in pixels.
        labels: n class indices.
        texts: n lines.
        masks: n of (H, W) bool, or None.

    Returns:
        (H, W, 3) uint8; a small image a whole number of times larger.
    """
    times = _times(image)
    image, boxes = _enlarged(image, times), np.asarray(boxes, dtype=float).reshape(-1, 4) * times
    if masks is not None:
        masks = [_enlarged(mask, times) for mask in masks]
        image = _tinted(image, zip(masks, map(colour_of, labels), strict=True))
    picture = Image.fromarray(np.ascontiguousarray(image))
    pen, width, font = ImageDraw.Draw(picture), max(2, round(max(image.shape[:2]) / 250)), _font(image)
    boxes = boxes.clip(0, [picture.width - 1, picture.height - 1] * 2)  # edges outside would not be seen
    for box, label in zip(boxes, labels, strict=True):
        pen.rectangle([float(v) for v in box], outline=colour_of(label), width=width)
    taken: list[Corners] = []
    for box, label, text in zip(boxes[::-1], labels[::-1], texts[::-1], strict=True):
        taken.append(_tag(pen, box.tolist(), text, colour_of(label), font, picture.size, taken))
    return np.asarray(picture)


def draw_classes(
    image: np.ndarray, classes: np.ndarray, names: Sequence[str], hidden: Sequence[int] = ()
) -> np.ndarray:
    """A copy of an image in the colours of its classes, with a key of those that are there below it.

    Args:
        image: (H, W, 3) uint8.
        classes: (H, W) class indices; what has no name, as 255 in masks, stays as it is.
        names: C names.
        hidden: classes that stay uncoloured, such as the background.

    Returns:
        (H + the key's height, W, 3) uint8; a small image a whole number of times larger.
    """
    times = _times(image)
    image, classes = _enlarged(image, times), _enlarged(classes, times)
    there = [int(label) for label in np.unique(classes) if 0 <= label < len(names) and label not in hidden]
    tinted = _tinted(image, ((classes == label, colour_of(label)) for label in there))
    return np.concatenate([tinted, _key([(names[label], colour_of(label)) for label in there], image)])


def palette(count: int) -> list[int]:
    """Colours of `count` classes as a PNG's palette, 768 numbers; what is ignored is white."""
    colours = [colour_of(label) if label < count else (255, 255, 255) for label in range(256)]
    return [part for colour in colours for part in colour]


def _times(image: np.ndarray) -> int:
    return max(1, round(LEGIBLE / max(image.shape[:2])))


def _enlarged(values: np.ndarray, times: int) -> np.ndarray:
    return values if times == 1 else values.repeat(times, axis=0).repeat(times, axis=1)


def _tinted(image: np.ndarray, masks_and_colours) -> np.ndarray:
    tinted = image.astype(np.float32)
    for mask, colour in masks_and_colours:
        tinted[mask] = (1 - MASK_SHARE) * tinted[mask] + MASK_SHARE * np.array(colour, dtype=np.float32)
    return tinted.round().astype(np.uint8)


def _font(image: np.ndarray) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=min(40, max(14, max(image.shape[:2]) // 28)))


def _tag(pen: ImageDraw.ImageDraw, box: Corners, text: str, colour, font, size, taken: Sequence[Corners]) -> Corners:
    """A line of text on its colour, inside the picture: above the box, else in it, below it, or as far down as it takes
    to cover none of the others. Where there is no room left it stands above the box. Returns its corners."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, box[0]), max(0.0, size[0] - width))
    lowest = max(0.0, size[1] - height)
    above = box[1] - height if box[1] >= height else box[1]
    places = [above, box[1], box[3], *np.arange(box[3], lowest, height), *np.arange(box[1], -1.0, -height)]
    tags = [(x, y, x + width, y + height) for y in (min(max(0.0, float(place)), lowest) for place in places)]
    tag = next((each for each in tags if not any(_overlap(each, other) for other in taken)), tags[0])
    pen.rectangle(tag, fill=colour)
    pen.text((x + 2 - left, tag[1] + 2 - top), text, fill=_readable_on(colour), font=font)
    return tag


def _overlap(one: Corners, other: Corners) -> bool:
    return all(one[axis] < other[axis + 2] and other[axis] < one[axis + 2] for axis in (0, 1))


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _key(entries: Sequence[tuple[str, tuple[int, int, int]]], image: np.ndarray) -> np.ndarray:
    """Names in their colours, in as many lines as it takes, as wide as the image."""
    width, font = image.shape[1], _font(image)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    line, gap = round(font.size * 1.6), 8
    x, y, placed = gap, 0, []
    for name, colour in entries:
        needed = round(measure.textlength(name, font=font)) + font.size + 3 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + line
        placed.append((x, y, name, colour))
        x += needed
    strip = Image.new("RGB", (width, y + line if entries else 0), (255, 255, 255))
    pen = ImageDraw.Draw(strip)
    for x, y, name, colour in placed:
        top = y + (line - font.size) / 2
        pen.rectangle([x, top, x + font.size, top + font.size], fill=colour)
        pen.text((x + font.size + gap, top), name, fill=(20, 20, 20), font=font)
    return np.asarray(strip).reshape(strip.height, width, 3)
