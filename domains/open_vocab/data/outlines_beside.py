"""Outlines of a second annotation file of the same images, for boxes of a first that has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....core.data import Box, ListedImage
from .outlines import corners_of, valid_outline

SAME = 0.9
"""Intersection over union from which on two boxes of one class, of two files, are one object's."""

Corners = tuple[float, float, float, float]


def with_outlines_of(images: Sequence[ListedImage], others: Sequence[ListedImage]) -> tuple[list[ListedImage], int]:
    """The images with the outlines that others of the same names have for boxes of the same class and place, each
    outline for one box, and how many boxes got one."""
    outlined = {image.name: [box for box in map(_outlined(image), image.boxes) if box] for image in others}
    made, count = [], 0
    for image in images:
        boxes = _with_outlines(image.boxes, outlined.get(image.name, ()))
        count += sum(new is not old for new, old in zip(boxes, image.boxes, strict=True))
        made.append(replace(image, boxes=boxes))
    return made, count


def _outlined(image: ListedImage):
    """Of an image, a box -> the box with its corners; None where its outline is of no use."""

    def with_corners(box: Box) -> Box | None:
        outline = valid_outline(box.outline, image.size) if box.outline and image.size else None
        corners = box.corners or (corners_of(outline, image.size) if outline else None)
        return replace(box, corners=corners, outline=outline) if outline and corners else None

    return with_corners


def _with_outlines(boxes: tuple[Box, ...], outlined: Sequence[Box]) -> tuple[Box, ...]:
    pairs = [
        (share, place, number)
        for place, box in enumerate(boxes)
        if not box.outline and box.corners
        for number, other in enumerate(outlined)
        if other.name == box.name and (share := _overlap(box.corners, other.corners)) >= SAME
    ]
    made, used = list(boxes), set()
    for _, place, number in sorted(pairs, key=lambda pair: -pair[0]):
        if not made[place].outline and number not in used:
            made[place] = replace(boxes[place], outline=outlined[number].outline)
            used.add(number)
    return tuple(made)


def _overlap(one: Corners, other: Corners) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if not (width > 0 and height > 0):
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)
