"""Overlaps of rotated rectangles and of quadrilaterals, and non-maximum suppression by them."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from .nms import by_falling_score, in_float32, survivors
from .precision import as_compiled

MAX_PAIRS = 2**16
"""Pairs of boxes that are intersected at a time."""
LEAST_AREA = 1e-14
SLACK = 1e-9
"""Share of a length by which a point may miss a line and yet be on it. Coordinates are in 64 bits."""
ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Share of the largest coordinate by which corners that were rounded to 32 bits may miss a side that they lie on."""


@as_compiled
def box_iou_rotated(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Fill `ious` with IoU (mode 0) or intersection over the first box (mode 1).

    Args:
        bboxes1: (N, 5), as x and y of the centre, width, height, and the angle from x to y in radians.
        bboxes2: (M, 5), or (N, 5) if aligned.
        ious: (N M,), or (N,) if aligned: the i-th with the i-th.
    """
    _fill(ious, rectangle_corners(bboxes1), rectangle_corners(bboxes2), mode_flag, aligned)


@as_compiled
def box_iou_quadri(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Fill `ious` likewise, for quadrilaterals (N, 8) and (M, 8), as x1, y1, ..., x4, y4 around each.

    As in the compiled operator a corner counts as inside another box where it is between the two ends of its first and
    of its last side, seen along these: right for rectangles and near for what resembles one.
    """
    _fill(ious, bboxes1.double().view(-1, 4, 2), bboxes2.double().view(-1, 4, 2), mode_flag, aligned)


@as_compiled
def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Indices (K,) of the kept boxes by falling score. Labels count for nothing, as in the compiled operator.

    Args:
        dets: (N, 5 or more) as `box_iou_rotated` takes them.
        scores: (N,).
        iou_threshold: a box is dropped if its IoU with a kept one is at least this.
    """
    return _kept(rectangle_corners(dets[:, :5]), scores, iou_threshold)


@as_compiled
def nms_quadri(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, iou_threshold: float, multi_label: bool
) -> Tensor:
    """As `nms_rotated`, for `dets` (N, 8 or more) as `box_iou_quadri` takes them."""
    return _kept(dets[:, :8].double().view(-1, 4, 2), scores, iou_threshold)


def rectangle_corners(boxes: Tensor) -> Tensor:
    """(N, 4, 2) float64 corners around rotated rectangles of (N, 5)."""
    x, y, width, height, angle = boxes.double().unbind(1)
    cosine, sine = angle.cos() / 2, angle.sin() / 2
    along = torch.stack([cosine * width, sine * width], dim=1)
    across = torch.stack([-sine * height, cosine * height], dim=1)
    sides = [across - along, -across - along, along - across, along + across]
    return torch.stack([x, y], dim=1)[:, None] + torch.stack(sides, dim=1)


def _fill(ious: Tensor, first: Tensor, second: Tensor, mode: int, aligned: bool) -> None:
    area, other_area = _areas(first), _areas(second)
    if aligned:
        pairs = torch.arange(len(first), device=first.device)
        both = _intersections(first, second, pairs, pairs)
    else:
        both = _all_intersections(first, second)
        area, other_area = area[:, None], other_area[None]
    ious.copy_(_over(both, area, other_area, mode).view_as(ious))


def _kept(corners: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    order = by_falling_score(scores)
    corners = corners[order]
    areas = _areas(corners)

    def overlaps(rows: slice, columns: slice) -> Tensor:
        both = _all_intersections(corners[rows], corners[columns])
        return _over(both, areas[rows, None], areas[columns], mode=0)

    return order[survivors(len(corners), overlaps, in_float32(iou_threshold), operator.ge, corners.device)]


def _over(both: Tensor, area: Tensor, other_area: Tensor, mode: int) -> Tensor:
    """Intersections by the union or by the first area; 0 for boxes without area."""
    whole = area + other_area - both if mode == 0 else area.expand_as(both)
    return torch.where((area < LEAST_AREA) | (other_area < LEAST_AREA), 0.0, both / whole)


def _areas(corners: Tensor) -> Tensor:
    """(N,): of the two triangles of each that have its first corner."""
    sides = corners[:, 1:] - corners[:, :1]
    return _cross(sides[:, :-1], sides[:, 1:]).abs().sum(dim=1) / 2


def _all_intersections(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) areas; only pairs whose upright bounds meet are computed."""
    (low, high), (other_low, other_high) = first.aminmax(dim=1), second.aminmax(dim=1)
    meet = ((low[:, None] <= other_high) & (other_low <= high[:, None])).all(dim=2)
    rows, columns = meet.nonzero(as_tuple=True)
    areas = first.new_zeros(meet.shape)
    areas[rows, columns] = _intersections(first, second, rows, columns)
    return areas


def _intersections(first: Tensor, second: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(P,) areas of `first[rows]` and `second[columns]` in common, of a bounded number of pairs at a time."""
    parts = [
        _convex_area(*_common_points(first[some], second[others]))
        for some, others in zip(rows.split(MAX_PAIRS), columns.split(MAX_PAIRS), strict=True)
    ]
    return torch.cat(parts) if parts else first.new_zeros(0)


def _common_points(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 24, 2) and which of them are there, (P, 24): where sides cross, and corners of one that the other holds."""
    rounded = ROUNDING * torch.cat([first, second], dim=1).abs().amax(dim=(1, 2))  # (P,)
    middle = torch.cat([first, second], dim=1).mean(dim=1, keepdim=True)
    first, second = first - middle, second - middle
    side, other_side = (box.roll(-1, dims=1) - box for box in (first, second))  # (P, 4, 2)
    lengths = side.norm(dim=2)[:, :, None] * other_side.norm(dim=2)[:, None]  # (P, 4, 4)
    slope = _cross(side[:, :, None], other_side[:, None])
    between = second[:, None] - first[:, :, None]
    along = _cross(between, other_side[:, None]) / slope
    other_along = _cross(between, side[:, :, None]) / slope
    crosses = (slope.abs() > SLACK * lengths) & _within(along) & _within(other_along)  # parallel ones do not
    crossings = first[:, :, None] + side[:, :, None] * along[..., None].where(crosses[..., None], 0.0)
    points = torch.cat([crossings.flatten(1, 2), first, second], dim=1)
    held = _holds(second, first, rounded), _holds(first, second, rounded)
    return points, torch.cat([crosses.flatten(1), *held], dim=1)


def _holds(box: Tensor, points: Tensor, rounded: Tensor) -> Tensor:
    """(P, 4): whether points (P, 4, 2), seen along the sides at the first corner of a box (P, 4, 2), are within it, or
    beside it by no more than the rounding (P,) of their corners and of the sides, which turns them: the more, the
    shorter a side is and the farther away a point."""
    to_point = points - box[:, :1]
    sides = torch.stack([box[:, 1], box[:, 3]], dim=1) - box[:, :1]  # (P, 2, 2)
    squares = sides.square().sum(dim=2).clamp(min=LEAST_AREA)[:, None]  # (P, 1, 2)
    shares = torch.einsum("pkc,psc->pks", to_point, sides) / squares
    lengths = squares.sqrt()
    turned = 1 + to_point.norm(dim=2, keepdim=True) / lengths  # (P, 4, 2)
    return _within(shares, SLACK + rounded[:, None, None] / lengths * turned).all(dim=2)


def _within(share: Tensor, slack: Tensor | float = SLACK) -> Tensor:
    return (share >= -slack) & (share <= 1 + slack)


def _convex_area(points: Tensor, there: Tensor) -> Tensor:
    """(P,) areas of the convex hulls of those points (P, K, 2) that are there.

    In the order of their angle around their mean they outline a star; what is not on its hull is a dent, or a point
    again, and goes until none is left.
    """
    counts = there.sum(dim=1)
    points = points.where(there[..., None], 0.0)
    points = (points - points.sum(dim=1, keepdim=True) / counts.clamp(min=1)[:, None, None]).where(
        there[..., None], 0.0
    )
    reach = points.abs().amax(dim=(1, 2))[:, None]
    order = torch.atan2(points[..., 1], points[..., 0]).masked_fill(~there, torch.inf).argsort(dim=1)
    points, there = _taken(points, order), there.gather(1, order)
    steps = torch.arange(points.shape[1], device=points.device)
    while True:
        counts = there.sum(dim=1, keepdim=True)
        before = torch.where(steps > 0, steps - 1, (counts - 1).clamp(min=0))
        after = torch.where(steps + 1 < counts, steps + 1, 0)
        come, go = points - _taken(points, before), _taken(points, after) - points
        come_far, go_far = (step.abs().amax(dim=2) > SLACK * reach for step in (come, go))
        again = (~come_far & (steps > 0)) | (~go_far & (steps > 0) & (steps + 1 == counts))
        dents = _cross(come, go) < -SLACK * reach * reach
        goes = there & torch.where(again.any(dim=1, keepdim=True), again, dents)
        if not goes.any():
            break
        there = there & ~goes
        order = there.byte().argsort(dim=1, descending=True, stable=True)
        points, there = _taken(points, order), there.gather(1, order)
    outline = _cross(points, _taken(points, after)).where(there, 0.0)
    return outline.sum(dim=1).clamp(min=0) / 2


def _taken(points: Tensor, order: Tensor) -> Tensor:
    return points.gather(1, order[..., None].expand(-1, -1, 2))


def _cross(first: Tensor, second: Tensor) -> Tensor:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
