"""Rotated boxes and quadrilaterals: overlaps and suppression; RoIAlign of rotated regions."""

import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops

from vladapt.domains.open_vocab.stack.mmcv_ext import region_grid, rotated_boxes
from vladapt.domains.open_vocab.stack.mmcv_ext.nms import BLOCK

numbers = st.floats(-20, 20, width=32)
sides = st.floats(0.5, 20, width=32)
rotated = st.tuples(numbers, numbers, sides, sides, st.floats(-7, 7, width=32))


def drawn(count, seed=0):
    """(N, 5) boxes that overlap in many ways."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator)
    return boxes * torch.tensor([30.0, 30, 12, 12, 6]) + torch.tensor([0.0, 0, 1, 1, -3])


def quadrilaterals(boxes):
    return rotated_boxes.rectangle_corners(boxes).float().flatten(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(rotated, min_size=1, max_size=4), st.lists(rotated, min_size=1, max_size=4))
@example([(0.0, 0.0, 1.0, 0.5, 1.0)], [(0.0, 0.0, 0.5, 0.5, 1.0)])  # sides on one line, but for rounding
@example([(0.0, 0.0, 1.0, 19.5, 2.0)], [(0.0, 0.0, 1.0, 1.0, 2.0)])  # rounding turns a short side
@example([(1.0, 0.0, 1.0, 17.0, 2.5)], [(1.0, 0.0, 1.0, 7.0, 2.5)])
@example([(0.0, 0.0, 9.0, 16.0, 3.5)], [(0.0, 0.0, 9.0, 0.5, 3.5)])  # parallel, but for rounding
def test_overlaps_are_those_of_shapely(first, second):
    shapely = pytest.importorskip("shapely")
    from shapely.affinity import rotate

    def polygons(boxes):
        upright = [(shapely.box(x - w / 2, y - h / 2, x + w / 2, y + h / 2), angle) for x, y, w, h, angle in boxes]
        return [rotate(box, angle, use_radians=True) for box, angle in upright]

    # on a grid: without one GEOS finds two points in common where sides lie on one line, but for rounding
    both = [[shapely.intersection(a, b, grid_size=1e-9).area for b in polygons(second)] for a in polygons(first)]
    area, other_area = (np.array([p.area for p in polygons(boxes)]) for boxes in (first, second))
    union = area[:, None] + other_area - both
    boxes, others = torch.tensor(first), torch.tensor(second)
    close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(ops.box_iou_rotated(boxes, others), torch.from_numpy(both / union), **close)
    part = ops.box_iou_rotated(boxes, others, mode="iof")
    torch.testing.assert_close(part, torch.from_numpy(both / area[:, None]), **close)
    quads = ops.box_iou_quadri(quadrilaterals(boxes), quadrilaterals(others))
    torch.testing.assert_close(quads, torch.from_numpy(both / union), **close)


def test_upright_boxes_overlap_as_torchvision_says():
    boxes = drawn(40)
    boxes[:, 4] = 0
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2], dim=1)
    expected = torchvision.ops.box_iou(corners, corners)
    torch.testing.assert_close(ops.box_iou_rotated(boxes, boxes), expected)
    torch.testing.assert_close(ops.box_iou_rotated(boxes, boxes, aligned=True), torch.ones(40))


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((3, 4, 2, 2, 0), (3, 4, 2, 2, math.pi / 4), math.sqrt(0.5)),  # an octagon of 8 (sqrt 2 - 1)
        ((0, 0, 4, 2, 0.3), (0, 0, 2, 4, 0.3 + math.pi / 2), 1),
        ((0, 0, 6, 2, 0.7), (0, 0, 3, 1, 0.7), 1 / 4),
        ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0),
        ((0, 0, 2, 2, 0), (9, 9, 2, 2, 1), 0),
        ((0, 0, 0, 2, 0), (0, 0, 2, 2, 0), 0),
    ],
)
def test_overlaps_worked_out_by_hand(first, second, iou):
    first, second = torch.tensor([first]).float(), torch.tensor([second]).float()
    torch.testing.assert_close(ops.box_iou_rotated(first, second).item(), float(iou), rtol=0, atol=1e-6)
    torch.testing.assert_close(ops.box_iou_rotated(second, first, aligned=True).item(), float(iou), rtol=0, atol=1e-6)


def test_an_angle_goes_from_x_to_y_unless_told_otherwise():
    boxes, others = drawn(6), drawn(5, seed=1)
    mirrored = [each * torch.tensor([1.0, 1, 1, 1, -1]) for each in (boxes, others)]
    flipped = [each * torch.tensor([1.0, -1, 1, 1, 1]) for each in (boxes, others)]
    ours = ops.box_iou_rotated(*mirrored, clockwise=False)
    torch.testing.assert_close(ours, ops.box_iou_rotated(boxes, others))
    assert not torch.allclose(ours, ops.box_iou_rotated(*mirrored))
    torch.testing.assert_close(ops.box_iou_rotated(*flipped, clockwise=False), ops.box_iou_rotated(boxes, others))


def test_quadrilaterals_overlap_as_in_mmcvs_own_test():
    """In its operator a trapezium and the rectangle beside its slope are one: corners are judged along two sides."""
    first = torch.tensor([[1, 1, 3, 4, 4, 4, 4, 1], [2, 2, 3, 4, 4, 2, 3, 1], [7, 7, 8, 8, 9, 7, 8, 6]]).float()
    second = torch.tensor([[0, 0, 0, 2, 2, 2, 2, 0], [2, 1, 2, 4, 4, 4, 4, 1], [7, 6, 7, 8, 9, 8, 9, 6]]).float()
    expected = torch.tensor([[1 / 14, 1, 0], [0, 0.5, 0], [0, 0, 0.5]])
    torch.testing.assert_close(ops.box_iou_quadri(first, second), expected)
    torch.testing.assert_close(ops.box_iou_quadri(first, second, aligned=True), expected.diag())
    part = ops.box_iou_quadri(first, second, mode="iof")
    torch.testing.assert_close(part, torch.tensor([[1 / 9, 1, 0], [0, 1, 0], [0, 0, 1]]))


def test_a_few_pairs_at_a_time_are_the_same(monkeypatch):
    boxes = drawn(12)
    whole = ops.box_iou_rotated(boxes, boxes)
    monkeypatch.setattr(rotated_boxes, "MAX_PAIRS", 5)
    torch.testing.assert_close(ops.box_iou_rotated(boxes, boxes), whole)
    assert ops.box_iou_rotated(boxes[:0], boxes).shape == (0, 12)


def test_suppression_keeps_what_a_plain_loop_keeps():
    count = 2 * BLOCK + 9
    boxes, scores = drawn(count), torch.rand(count, generator=torch.Generator().manual_seed(2))
    ious = ops.box_iou_rotated(boxes, boxes)
    kept = []
    for index in scores.argsort(descending=True).tolist():
        if all(ious[other, index] < 0.2 for other in kept):
            kept.append(index)
    assert 20 < len(kept) < count / 2
    for suppress, given_boxes in ((ops.nms_rotated, boxes), (ops.nms_quadri, quadrilaterals(boxes))):
        dets, indices = suppress(given_boxes, scores, 0.2)
        assert indices.tolist() == kept
        torch.testing.assert_close(dets, torch.cat([given_boxes, scores[:, None]], dim=1)[kept])
        assert suppress(given_boxes, scores, 0.2, torch.zeros(count))[1].tolist() == kept


def test_an_overlap_of_just_the_threshold_is_too_much():
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [1, 0, 2, 2, 0]])  # IoU 1/3
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms_rotated(boxes, scores, 0.34)[1].tolist() == [0, 1]
    assert ops.nms_rotated(boxes, scores, 0.33)[1].tolist() == [0]
    same = boxes[[0, 0]]
    assert ops.nms_rotated(same, scores, 1.0)[1].tolist() == [0]


REGIONS = torch.tensor([[0, 7.0, 6, 9, 5, 0.4], [1, 5, 9, 4, 13, -2], [1, 1, 1, 6, 6, 1.0], [0, 4, 4, 0, 0, 0]])


def features(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_without_an_angle_it_is_roi_align(sampling_ratio, aligned):
    x, upright = features(2, 3, 9, 8), REGIONS * torch.tensor([1.0, 1, 1, 1, 1, 0])
    corners = torch.cat(
        [upright[:, :1], upright[:, 1:3] - upright[:, 3:5] / 2, upright[:, 1:3] + upright[:, 3:5] / 2], 1
    )
    if not aligned:
        upright, corners = upright[:3], corners[:3]  # one of no size is made one pixel wide at another place
    expected = torchvision.ops.roi_align(x, corners, (2, 3), 0.5, sampling_ratio, aligned)
    ours = ops.roi_align_rotated(x, upright, (2, 3), 0.5, sampling_ratio, aligned)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("clockwise", [False, True])
def test_a_quarter_turn_is_that_of_the_image(clockwise):
    x, side = features(1, 2, 10, 10), 10
    region = torch.tensor([[0, 4.0, 3, 5, 2, math.pi / 2]])
    centre = [side - 3.0, 4] if not clockwise else [3, side - 4.0]
    turned = torch.rot90(x, 1 if clockwise else -1, (2, 3))
    upright = torch.tensor([[0, *centre, 5, 2, 0]])
    ours = ops.roi_align_rotated(x, region, (2, 3), 1.0, 2, True, clockwise)
    torch.testing.assert_close(ours, ops.roi_align_rotated(turned, upright, (2, 3), 1.0, 2, True))


def test_gradients_are_the_functions():
    x = features(2, 1, 4, 5, dtype=torch.float64).requires_grad_()
    for sampling_ratio in (0, 2):
        layer = ops.RoIAlignRotated((2, 1), 0.3, sampling_ratio)
        assert torch.autograd.gradcheck(lambda x, layer=layer: layer(x, REGIONS.double()), (x,))


def test_a_few_regions_at_a_time_are_the_same(monkeypatch):
    x = features(2, 2, 7, 8).requires_grad_()

    def run():
        out = ops.roi_align_rotated(x, REGIONS, (2, 3), 0.5, 0)
        return out, *torch.autograd.grad(out.square().sum(), x)

    whole = run()
    monkeypatch.setattr(region_grid, "MAX_SAMPLES", 7)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)
