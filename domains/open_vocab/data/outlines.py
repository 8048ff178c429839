"""Outlines of objects as COCO writes them: polygons, and run-length encodings plain or compressed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.errors import CapabilityError

MOST_POINTS = 2_000_000
MOST_BITS = 40
"""Of the length of a run."""

Outline = list[list[float]] | dict[str, Any]
"""Polygons [x0, y0, x1, y1, ...] in pixels, or {"size": [height, width], "counts": list or text}."""


def valid_outline(written: Any, size: tuple[int, int]) -> Outline | None:
    """The outline as far as it can be used, or None.

    Polygons with fewer than three points, with a coordinate that is not a finite number, or so long a way around that
    drawing them would take memory without end, go. An encoding must be of the image's own size.

    Args:
        written: what the annotation holds.
        size: (width, height) of the image.
    """
    if isinstance(written, dict):
        return _valid_encoding(written, size)
    if not isinstance(written, (list, tuple)):
        return None
    flat = [written] if written and all(isinstance(value, (int, float)) for value in written) else written
    polygons = [[float(value) for value in polygon] for polygon in flat if _is_polygon(polygon)]
    return [polygon for polygon in polygons if _way_around(polygon) <= _longest_way(size)] or None


def outline_mask(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels of an outline.

    Args:
        outline: a valid one.
        size: (width, height).
    """
    codec = coco_masks()
    width, height = size
    if isinstance(outline, dict) and not isinstance(outline["counts"], list):
        return decode(outline)
    encoded = codec.frPyObjects(outline, height, width)
    return codec.decode(codec.merge(encoded) if isinstance(encoded, list) else encoded).astype(bool)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """The compressed encoding of an (H, W) mask, JSON-able."""
    encoded = coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def decode(encoded: dict[str, Any]) -> np.ndarray:
    """(H, W) bool of a compressed encoding."""
    return coco_masks().decode(encoded).astype(bool)


def corners_of(outline: Outline, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 around an outline; None where it covers nothing."""
    if isinstance(outline, list):
        xs = [value for polygon in outline for value in polygon[0::2]]
        ys = [value for polygon in outline for value in polygon[1::2]]
        return min(xs), min(ys), max(xs), max(ys)
    rows, columns = np.nonzero(outline_mask(outline, size))
    if not len(rows):
        return None
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def coco_masks():
    """pycocotools' encoder.

    Raises:
        CapabilityError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ModuleNotFoundError:
        raise CapabilityError("outlines need pycocotools; install it with: pip install 'vladapt[open-vocab]'") from None
    return mask


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, Sequence)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in polygon)
    )


def _way_around(polygon: Sequence[float]) -> float:
    xs, ys = np.array(polygon[0::2]), np.array(polygon[1::2])
    return float(np.maximum(np.abs(np.diff(xs, append=xs[:1])), np.abs(np.diff(ys, append=ys[:1]))).sum())


def _longest_way(size: tuple[int, int]) -> int:
    """Pixels along a polygon that are drawn: an encoder stores five points for each."""
    width, height = size
    return 20 * (width + height) + min(width * height, MOST_POINTS)


def _valid_encoding(written: dict[str, Any], size: tuple[int, int]) -> dict[str, Any] | None:
    width, height = size
    counts = written.get("counts")
    if written.get("size") not in ([height, width], (height, width)):
        return None
    if isinstance(counts, list):
        whole = all(isinstance(run, int) and run >= 0 for run in counts)
        return {"size": [height, width], "counts": counts} if whole and sum(counts) == width * height else None
    if not isinstance(counts, (str, bytes)) or not counts:
        return None
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": text} if _covers(text, width * height) else None


def _covers(text: str, pixels: int) -> bool:
    """Whether a compressed encoding has runs that fill the image: a decoder would write past the end of others.

    Each run is written as groups of five bits, the lowest first, one character per group: its code less 48, bit 32 says
    that more follow, bit 16 of the last is the sign; from the third run on, it is the difference to the one two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return False
        if shift > MOST_BITS:
            return False
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            return False
        value = shift = 0
    return shift == 0 and sum(runs) == pixels
