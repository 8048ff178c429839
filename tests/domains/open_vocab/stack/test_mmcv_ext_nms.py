"""Suppression against its definition, box by box."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.stack.mmcv_ext.nms import BLOCK, bbox_overlaps, nms, nms_match, softnms

THRESHOLDS = st.sampled_from([0.1, 0.3, 1 / 3, 0.5, 0.7])


@st.composite
def scored_boxes(draw, most=24):
    """Integer boxes and few scores, so that ties, equal IoUs and boxes without area are common."""
    corners = st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(0, 5)] * 2, st.integers(0, 3))
    rows = torch.tensor(draw(st.lists(corners, min_size=1, max_size=most)), dtype=torch.float32)
    return torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:4]], dim=1), rows[:, 4] / 3


def iou(a, b, offset):
    """In float32, as the operators calculate."""
    width = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0]) + offset).clamp(min=0)
    height = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1]) + offset).clamp(min=0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def groups_one_by_one(boxes, scores, drops, offset=0):
    """[kept, dropped by it, ...] for each kept box, by the definition."""
    left = scores.sort(descending=True).indices.tolist()
    groups = []
    while left:
        best = left.pop(0)
        dropped = [other for other in left if drops(iou(boxes[best], boxes[other], offset))]
        left = [other for other in left if other not in dropped]
        groups.append([best, *dropped])
    return groups


@settings(max_examples=60)
@given(scored_boxes(), THRESHOLDS, st.sampled_from([0, 1]))
def test_keeps_what_the_definition_keeps(scored, threshold, offset):
    boxes, scores = scored
    limit = torch.tensor(threshold)
    expected = [group[0] for group in groups_one_by_one(boxes, scores, lambda value: value > limit, offset)]
    assert nms(boxes, scores, iou_threshold=threshold, offset=offset).tolist() == expected


@settings(max_examples=60)
@given(scored_boxes(), THRESHOLDS)
def test_groups_as_the_definition_groups(scored, threshold):
    boxes, scores = scored
    limit = torch.tensor(threshold)
    expected = groups_one_by_one(boxes, scores, lambda value: value >= limit)
    assert nms_match(torch.cat([boxes, scores[:, None]], dim=1), iou_threshold=threshold) == expected


def soft_nms_step_by_step(boxes, scores, threshold, sigma, min_score, method):
    """One array, exchanged and refilled in place: the order of it decides between equal scores."""
    rows = [[box, score, index] for index, (box, score) in enumerate(zip(boxes, scores.tolist(), strict=True))]
    taken = 0
    while taken < len(rows):
        best = max(range(taken, len(rows)), key=lambda place: (rows[place][1], -place))
        rows[taken], rows[best] = rows[best], rows[taken]
        place = taken + 1
        while place < len(rows):
            overlap = iou(rows[taken][0], rows[place][0], 0).item()
            lowered = {0: 0.0, 1: 1 - overlap, 2: math.exp(-overlap * overlap / sigma)}[method]
            rows[place][1] *= lowered if method == 2 or overlap >= threshold else 1.0
            if rows[place][1] < min_score:
                rows[place] = rows[-1]
                rows.pop()
            else:
                place += 1
        taken += 1
    return [row[2] for row in rows], [row[1] for row in rows]


@pytest.mark.parametrize("method", [0, 1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_soft_nms_takes_the_steps_of_its_definition(method, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (40, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + torch.randint(1, 8, (40, 2), generator=generator)], dim=1)
    scores = torch.randint(1, 6, (40,), generator=generator) / 8
    dets = torch.empty(40, 5)
    kept = softnms(boxes, scores, dets, iou_threshold=0.3, sigma=0.5, min_score=0.06, method=method, offset=0)
    expected, lowered = soft_nms_step_by_step(boxes, scores, 0.3, 0.5, 0.06, method)
    assert kept.tolist() == expected
    torch.testing.assert_close(dets[: len(kept), 4], torch.tensor(lowered))
    assert torch.equal(dets[: len(kept), :4], boxes[kept])


def test_soft_nms_reads_every_option():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 3]])
    options = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.01, "method": 1, "offset": 0}

    def run(**changed):
        dets = torch.zeros(3, 5)
        kept = softnms(boxes, torch.tensor([0.9, 0.8, 0.7]), dets, **options | changed)
        return kept.tolist(), dets[:, 4].tolist()

    plain = run()
    for changed in ({"iou_threshold": 0.2}, {"min_score": 0.4}, {"method": 0}, {"method": 2}, {"offset": 1}):
        assert run(**changed) != plain, changed
    assert run(method=2, sigma=0.1) != run(method=2)


@pytest.mark.parametrize("offset", [0, 1])
def test_more_boxes_than_a_block(offset):
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(2 * BLOCK + 37, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(len(corners), 2, generator=generator) * 20], dim=1)
    scores = torch.rand(len(boxes), generator=generator)
    order, left, expected = scores.sort(descending=True).indices, torch.ones(len(boxes), dtype=torch.bool), []
    overlaps = torch.empty(len(boxes), len(boxes))
    bbox_overlaps(boxes, boxes, overlaps, mode=0, aligned=False, offset=offset)
    for index in order.tolist():
        if left[index]:
            expected.append(index)
            left &= overlaps[index] <= 0.5
    assert nms(boxes, scores, iou_threshold=0.5, offset=offset).tolist() == expected


def test_an_iou_of_exactly_the_threshold_stays_as_in_float32():
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])  # IoU 0.3 in float32, which is more than 0.3
    assert nms(boxes, torch.tensor([0.9, 0.8]), iou_threshold=0.3, offset=0).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_of_other_number_types(dtype):
    boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 28, 28]], dtype=dtype)
    scores = torch.tensor([0.5, 0.75, 0.25], dtype=dtype)
    for offset in (0, 1):
        assert nms(boxes, scores, iou_threshold=0.5, offset=offset).tolist() == [1, 2]
    dets = torch.empty(3, 5, dtype=dtype)
    kept = softnms(boxes, scores, dets, iou_threshold=0.5, sigma=0.5, min_score=0.1, method=1, offset=0)
    assert kept.tolist() == [1, 2] and dets[0, 4] == 0.75
    assert nms_match(torch.cat([boxes, scores[:, None]], dim=1), iou_threshold=0.5) == [[1, 0], [2]]


def test_no_boxes():
    none = torch.empty(0, 4)
    for offset in (0, 1):
        assert nms(none, torch.empty(0), iou_threshold=0.5, offset=offset).shape == (0,)
    kept = softnms(none, torch.empty(0), torch.empty(0, 5), 0.5, 0.5, 0.1, 1, 0)
    assert kept.shape == (0,) and kept.dtype == torch.int64


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", [0, 1])
def test_overlaps_of_pairs(mode, offset):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(5, 4, generator=generator).cumsum(dim=1)[:, [0, 1, 3, 2]] + 1 for _ in range(2))
    second[:, 2:] += 1
    first[:, 2:] += 1
    ious, aligned = torch.empty(5, 5), torch.empty(5)
    bbox_overlaps(first, second, ious, mode=mode, aligned=False, offset=offset)
    bbox_overlaps(first, second, aligned, mode=mode, aligned=True, offset=offset)
    for row in range(5):
        for column in range(5):
            value = iou(first[row], second[column], offset)
            if mode == 1:
                area = (first[row, 2] - first[row, 0] + offset) * (first[row, 3] - first[row, 1] + offset)
                other = (second[column, 2] - second[column, 0] + offset) * (
                    second[column, 3] - second[column, 1] + offset
                )
                both = value * (area + other) / (1 + value)
                value = both / area
            torch.testing.assert_close(ious[row, column], value)
    torch.testing.assert_close(aligned, ious.diagonal())
