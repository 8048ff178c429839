"""Annotations of semantic localisation: `anno.json`, a list of {"jpg_name", "caption", "points"}."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.errors import DataError, shortened
from ....core.runtime import read_json

FARTHEST = 1 << 24
"""Pixels from the picture that a vertex may lie."""


@dataclass(frozen=True)
class AnnotatedSentence:
    """A sentence, and where in a picture it is true.

    Args:
        image: name of the picture's file.
        caption: the sentence.
        regions: polygons [[x, y], ...] in pixels, of 3 points or more each.
    """

    image: str
    caption: str
    regions: tuple[tuple[tuple[float, float], ...], ...]


def read_annotation(path: Path) -> list[AnnotatedSentence]:
    """All sentences of an annotation, in its order.

    Raises:
        DataError: it cannot be read, or an entry is not of that form.
    """
    content = read_json(path, 'give a list of {"jpg_name", "caption", "points"}')
    if not isinstance(content, list) or not content:
        raise DataError(f'{path}: not a list of {{"jpg_name", "caption", "points"}}; give an annotation of that form')
    return [_entry(entry, f"{path} entry {number}") for number, entry in enumerate(content)]


def _entry(entry: Any, where: str) -> AnnotatedSentence:
    if not isinstance(entry, dict):
        raise DataError(f'{where}: not of the form {{"jpg_name", "caption", "points"}}; correct it')
    for key in ("jpg_name", "caption"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(f"{where}: has no {key}; add it")
    regions = entry.get("points")
    if not isinstance(regions, list) or not regions:
        raise DataError(f"{where}: has no points; give one polygon [[x, y], ...] or more")
    return AnnotatedSentence(
        entry["jpg_name"].strip(), entry["caption"].strip(), tuple(_polygon(r, where) for r in regions)
    )


def _polygon(region: Any, where: str) -> tuple[tuple[float, float], ...]:
    if not isinstance(region, list) or len(region) < 3 or not all(map(_is_point, region)):
        raise DataError(f"{where}: '{shortened(str(region))}' is not a polygon of 3 points [x, y] or more; correct it")
    return tuple((float(x), float(y)) for x, y in region)


def _is_point(point: Any) -> bool:
    numbers = isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)
    return numbers and all(math.isfinite(value) and abs(value) < FARTHEST for value in point)
