"""Overlaps of boxes, in the order of operations of the compiled ones, so that thresholds decide alike."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import as_compiled, widened


def box_iou(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """(N, M) IoU of boxes (N, 4) and (M, 4), `offset` added to widths and heights; NaN for two of no area."""
    both = _intersections(first[:, None], second[None], offset)
    return both / (_areas(first, offset)[:, None] + _areas(second, offset) - both)


@as_compiled
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Fill `ious` with IoU (mode 0) or intersection over the first box (mode 1).

    Args:
        bboxes1: (N, 4).
        bboxes2: (M, 4), or (N, 4) if aligned.
        ious: (N, M), or (N,) if aligned: the i-th with the i-th.
    """
    first, second = widened(bboxes1), widened(bboxes2)
    if not aligned:
        first, second = first[:, None], second[None]
    both = _intersections(first, second, offset)
    area = _areas(first, offset)
    ious.copy_(both / (area + _areas(second, offset) - both if mode == 0 else area))


def _intersections(first: Tensor, second: Tensor, offset: int) -> Tensor:
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (high - low + offset).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _areas(boxes: Tensor, offset: int) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0] + offset) * (boxes[..., 3] - boxes[..., 1] + offset)
