"""Overlaps of boxes, in the order of operations of the compiled ones, so that thresholds decide alike."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import as_compiled, widened


def box_iou(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """(N, M) IoU of boxes (N, 4) and (M, 4), `offset` added to widths and heights; NaN for two of no area."""
    first, second = _columns(first), _columns(second)
    return _iou(first[:, :, None], second[:, None], _area(first, offset)[:, None], _area(second, offset), offset)


@as_compiled
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Fill `ious` with IoU (mode 0) or intersection over the first box (mode 1).

    Args:
        bboxes1: (N, 4).
        bboxes2: (M, 4), or (N, 4) if aligned.
        ious: (N, M), or (N,) if aligned: the i-th with the i-th.
    """
    first, second = _columns(widened(bboxes1)), _columns(widened(bboxes2))
    area = _area(first, offset)
    if not aligned:
        first, second, area = first[:, :, None], second[:, None], area[:, None]
    if mode == 0:
        ious.copy_(_iou(first, second, area, _area(second, offset), offset))
    else:
        ious.copy_(_intersection(first, second, offset) / area)


def _columns(boxes: Tensor) -> Tensor:
    """(4, N): all x1, all y1, and so on, each beside each other in memory, which is what makes the rest fast."""
    return boxes.T.contiguous()


def _iou(first: Tensor, second: Tensor, area: Tensor, other_area: Tensor, offset: int) -> Tensor:
    both = _intersection(first, second, offset)
    return both / (area + other_area).sub_(both)


def _intersection(first: Tensor, second: Tensor, offset: int) -> Tensor:
    (x1, y1, x2, y2), (other_x1, other_y1, other_x2, other_y2) = first, second
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).add_(offset).clamp_(min=0)
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).add_(offset).clamp_(min=0)
    return width.mul_(height)


def _area(boxes: Tensor, offset: int) -> Tensor:
    x1, y1, x2, y2 = boxes
    return (x2 - x1 + offset) * (y2 - y1 + offset)
