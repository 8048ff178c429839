"""Overlapping windows over images, those of all images together in batches, averaged where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")
Scorer = Callable[[Tensor], Tensor]
"""(B, 3, h, w) -> (B, Q, h', w'), a grid of any fineness over the same field."""


@dataclass(frozen=True)
class Window:
    """A rectangle of one image, in pixels."""

    image: int
    top: int
    left: int
    height: int
    width: int

    def of(self, x: Tensor) -> Tensor:
        """(..., H, W) -> (..., height, width), a view."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


def place_windows(image: int, size: tuple[int, int], crop: int, stride: int) -> list[Window]:
    """Windows of side `crop`, `stride` apart; the last ones are moved back to end with the image.

    An image smaller than a window has one of its own size in that direction.
    """
    rows, columns = (_starts(length, crop, stride) for length in size)
    height, width = (min(crop, length) for length in size)
    return [Window(image, top, left, height, width) for top in rows for left in columns]


def slide(
    images: Sequence[Tensor], score: Scorer, *, crop: int, stride: int, per_batch: int, multiple: int = 1
) -> list[Tensor]:
    """What `score` says of each image by its windows, each resized to its window (bilinear) and averaged.

    Args:
        images: (3, H, W) each, of any sizes.
        crop: side of a window in pixels; stride: from one to the next.
        per_batch: windows that `score` is given at a time; the result does not depend on it.
        multiple: a window whose sides are not multiples of this gets a border of zeros, cut off again.

    Returns:
        (Q, H, W) each.
    """
    windows = [w for i, image in enumerate(images) for w in place_windows(i, image.shape[-2:], crop, stride)]
    canvases: list[Tensor | None] = [None] * len(images)
    for batch in of_one_size(windows, lambda window: (window.height, window.width), per_batch):
        pixels = torch.stack([window.of(images[window.image]) for window in batch])
        scores = _score(pixels, score, multiple)  # (B, Q, height, width)
        for window, one in zip(batch, scores):
            if canvases[window.image] is None:
                canvases[window.image] = one.new_zeros(len(one), *images[window.image].shape[-2:])
            window.of(canvases[window.image]).add_(one)
    return [canvas.div_(_counts(image, crop, stride)) for canvas, image in zip(canvases, images)]


def _starts(length: int, crop: int, stride: int) -> list[int]:
    last = max(length - crop, 0)
    return [*range(0, last, stride), last]


def of_one_size(things: Iterable[T], size_of: Callable[[T], Any], per_batch: int) -> Iterator[list[T]]:
    """Windows, or images, of one size at a time, at most `per_batch`."""
    sizes: dict[Any, list[T]] = {}
    for thing in things:
        sizes.setdefault(size_of(thing), []).append(thing)
    for same in sizes.values():
        for start in range(0, len(same), per_batch):
            yield same[start : start + per_batch]


def _score(pixels: Tensor, score: Scorer, multiple: int) -> Tensor:
    height, width = pixels.shape[-2:]
    more_rows, more_columns = -height % multiple, -width % multiple
    top, left = more_rows // 2, more_columns // 2
    if more_rows or more_columns:
        pixels = F.pad(pixels, (left, more_columns - left, top, more_rows - top))
    scores = F.interpolate(score(pixels).float(), size=pixels.shape[-2:], mode="bilinear", align_corners=False)
    return scores[..., top : top + height, left : left + width]


def _counts(image: Tensor, crop: int, stride: int) -> Tensor:
    """(H, W): how many windows see each pixel."""
    along = []
    for length in image.shape[-2:]:
        seen = image.new_zeros(length, dtype=torch.float32)
        for start in _starts(length, crop, stride):
            seen[start : start + crop] += 1
        along.append(seen)
    return along[0][:, None] * along[1]
