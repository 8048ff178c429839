"""Non-maximum suppression, plain, soft and grouping.

Soft-NMS is of "Soft-NMS -- Improving Object Detection With One Line of Code" (2017), arXiv 1704.04503.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import Tensor

from .precision import as_compiled, widened

BLOCK = 128
NAIVE, LINEAR, GAUSSIAN = range(3)
SCORE, AREA = 4, 5


@as_compiled
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept boxes by falling score; ties are in the order of torch's sort, as in the compiled operator.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: a box is dropped if its IoU with a kept one is larger.
        offset: added to widths and heights, 0 or 1.

    Returns:
        (K,) int64.
    """
    dtype = torch.promote_types(widened(boxes).dtype, widened(scores).dtype)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    threshold = in_float32(iou_threshold)
    order = by_falling_score(scores)
    if offset == 0:
        return order[torchvision.ops.nms(boxes[order], scores[order], threshold)]
    return order[_survivors(boxes[order], offset, threshold, operator.gt)]


@as_compiled
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """For each kept box its index and those of the boxes it dropped, by falling score.

    Args:
        dets: (N, 5), as x1, y1, x2, y2, score.
        iou_threshold: a box is dropped if its IoU with a kept one is at least this.
    """
    dets = widened(dets)
    order = by_falling_score(dets[:, 4])
    boxes, threshold = dets[order, :4], in_float32(iou_threshold)
    survives = _survivors(boxes, 0, threshold, operator.ge)
    kept, dropped = survives.nonzero()[:, 0], (~survives).nonzero()[:, 0]
    drops = (box_iou(boxes[kept], boxes[dropped], 0) >= threshold) & (kept[:, None] < dropped)
    groups = [[index] for index in order[kept].tolist()]
    if len(dropped):
        for index, group in zip(order[dropped].tolist(), drops.int().argmax(dim=0).tolist(), strict=True):
            groups[group].append(index)
    return groups


def in_float32(threshold: float) -> float:
    """What the compiled operators compare with: 0.3 is more than 0.3 there, and an IoU of exactly that stays."""
    return float(np.float32(threshold))


def by_falling_score(scores: Tensor) -> Tensor:
    """The order that decides which of tied boxes survive: not a stable one, as the compiled operators ask for none.

    torchvision sorts stably, so that boxes given to it in this order stay in it.
    """
    return scores.sort(descending=True).indices


def _survivors(boxes: Tensor, offset: int, threshold: float, exceeds: Callable) -> Tensor:
    def overlaps(rows: slice, columns: slice) -> Tensor:
        return box_iou(boxes[rows], boxes[columns], offset)

    return survivors(len(boxes), overlaps, threshold, exceeds, boxes.device)


def survivors(
    count: int,
    overlaps: Callable[[slice, slice], Tensor],
    threshold: float,
    exceeds: Callable,
    device: torch.device,
) -> Tensor:
    """(N,) bool: which boxes, ordered by falling score, no earlier survivor overlaps too much; a block at a time.

    Args:
        count: N.
        overlaps: (rows, columns) -> IoU of these boxes with those.
        exceeds: of an overlap and the threshold, whether it is too much.
    """
    alive = torch.ones(count, dtype=torch.bool, device=device)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        drops = exceeds(overlaps(slice(start, end), slice(start, count)), threshold)  # (block, N - start)
        alive[start:end] = kept = _greedy(alive[start:end], drops[:, : end - start].triu(1))
        alive[end:] &= ~drops[kept, end - start :].any(dim=0)
    return alive


def _greedy(alive: Tensor, drops: Tensor) -> Tensor:
    """The one fixed point of "kept unless a kept earlier box drops it", reached in as many steps as chains are long."""
    kept = alive
    while True:
        again = alive & ~(drops & kept[:, None]).any(dim=0)
        if torch.equal(again, kept):
            return kept
        kept = again


@as_compiled
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: each step takes the best box left and lowers the scores of those it overlaps.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), filled with the taken boxes and their lowered scores, in the order taken.
        iou_threshold: overlap from which the naive and linear methods lower.
        sigma: width of the Gaussian method.
        min_score: a box lowered below it leaves.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: added to widths and heights, 0 or 1.

    Returns:
        (K,) int64, indices of the taken boxes.
    """
    # (6, N) float32: x1, y1, x2, y2, score and area.
    columns = torch.cat([boxes.float().T, scores.float()[None]]).cpu().numpy()
    width, height = columns[2:4] - columns[:2] + np.float32(offset)
    left = np.concatenate([columns, (width * height)[None]])
    index = np.arange(left.shape[1])
    taken = 0
    while taken < len(index):
        best = taken + _first_best(left[SCORE, taken:])
        # The exchange, like the refilling in _compacted, decides which of tied scores is taken first later on.
        left[:, [taken, best]], index[[taken, best]] = left[:, [best, taken]], index[[best, taken]]
        taken += 1
        rest = left[:, taken:]
        rest[SCORE] *= _decay(_overlaps(left[:, taken - 1], rest, offset), iou_threshold, sigma, method)
        leaves = rest[SCORE] < np.float32(min_score)
        if leaves.any():
            order = np.concatenate([np.arange(taken), taken + _compacted(~leaves)])
            left, index = left[:, order], index[order]
    dets[: len(index)] = torch.from_numpy(left[: SCORE + 1].T.copy()).to(dets)
    return torch.from_numpy(index).to(boxes.device)


def _first_best(scores: np.ndarray) -> int:
    """The place of the first largest score. Two boxes of no area make NaN: never larger, and nothing larger than it."""
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _overlaps(taken: np.ndarray, rest: np.ndarray, offset: int) -> np.ndarray:
    """(N,) IoU of one column with others."""
    sides = np.minimum(taken[2:4, None], rest[2:4]) - np.maximum(taken[:2, None], rest[:2])
    width, height = np.maximum(sides + np.float32(offset), 0)
    both = width * height
    with np.errstate(invalid="ignore", divide="ignore"):
        return both / (taken[AREA] + rest[AREA] - both)


def _decay(overlap: np.ndarray, iou_threshold: float, sigma: float, method: int) -> np.ndarray:
    if method == GAUSSIAN:
        return np.exp(-(overlap * overlap) / np.float32(sigma))
    lowered = 1 - overlap if method == LINEAR else np.zeros_like(overlap)
    return np.where(overlap >= np.float32(iou_threshold), lowered, np.float32(1))


def _compacted(stays: np.ndarray) -> np.ndarray:
    """The order after every leaving entry, first to last, was replaced by the last one that stays."""
    count = int(stays.sum())
    order = np.arange(count)
    order[~stays[:count]] = (count + stays[count:].nonzero()[0])[::-1]
    return order


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
