"""How large the images of a tower are: the side of a square, or height and width where they differ."""

from __future__ import annotations

import re
from typing import Any

ImageSize = int | tuple[int, int]
"""The side of a square, or (height, width) where they differ."""
SPELLED = re.compile(r"\s*(\d+)\s*[x×,]\s*(\d+)\s*", re.IGNORECASE)


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """(H, W) of either form."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def as_image_size(value: Any) -> Any:
    """An `ImageSize` of what a user, a file or a library says: 224, "384x128", [384, 128]; whatever is none stays."""
    if isinstance(value, str) and (match := SPELLED.fullmatch(value)):
        value = int(match[1]), int(match[2])
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(side) is int for side in value):
        return value
    return value[0] if value[0] == value[1] else (value[0], value[1])


def size_in_words(size: ImageSize) -> str:
    """ "384 × 128", height first."""
    return " × ".join(map(str, height_and_width(size)))
