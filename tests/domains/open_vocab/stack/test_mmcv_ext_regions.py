"""RoIAlign and RoIPool against torchvision and against their definitions, sample by sample."""

import itertools
import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv.ops import roi_align, roi_pool

from vladapt.domains.open_vocab.stack.mmcv_ext import region_grid
from vladapt.domains.open_vocab.stack.mmcv_ext.roi_align import roi_align_forward

COORDINATES = st.integers(-8, 60).map(lambda value: value / 2)


@st.composite
def regions(draw):
    """(R, 5): some outside the image, some without area."""
    rows = draw(st.lists(st.tuples(st.integers(0, 1), *[COORDINATES] * 4), min_size=1, max_size=4))
    first, second = torch.tensor(rows)[:, 1:].unflatten(1, (2, 2)).unbind(dim=1)
    index = torch.tensor(rows)[:, :1]
    return torch.cat([index, torch.minimum(first, second), torch.maximum(first, second)], dim=1)


def features(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@settings(max_examples=25)
@given(regions(), st.sampled_from([0, 1, 3]), st.booleans())
def test_mean_samples_equal_torchvisions(rois, sampling_ratio, aligned):
    x = features(2, 3, 7, 9)
    ours = roi_align(x, rois, (3, 2), 0.5, sampling_ratio, "avg", aligned)
    assert torch.equal(ours, torchvision.ops.roi_align(x, rois, (3, 2), 0.5, sampling_ratio, aligned))


def bilinear(plane, y, x):
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(())
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = plane[top, left] * (1 - (x - left)) + plane[top, right] * (x - left)
    below = plane[bottom, left] * (1 - (x - left)) + plane[bottom, right] * (x - left)
    return above * (1 - (y - top)) + below * (y - top)


def largest_samples(x, rois, size, scale, sampling_ratio, aligned):
    """One bin of one region at a time; differentiable in x."""
    out = []
    for index, *corners in rois.tolist():
        left, top, right, bottom = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        extent = [bottom - top, right - left]
        if not aligned:
            extent = [max(side, 1.0) for side in extent]
        bin_height, bin_width = extent[0] / size[0], extent[1] / size[1]
        rows = sampling_ratio or math.ceil(bin_height)
        columns = sampling_ratio or math.ceil(bin_width)
        for plane, row, column in itertools.product(x[int(index)], range(size[0]), range(size[1])):
            samples = [
                bilinear(
                    plane,
                    top + (row + (i + 0.5) / rows) * bin_height,
                    left + (column + (j + 0.5) / columns) * bin_width,
                )
                for i in range(rows)
                for j in range(columns)
            ]
            out.append(torch.stack(samples).max() if samples else torch.tensor(-10000.0))
    return torch.stack(out).view(len(rois), x.shape[1], *size)


ROIS = torch.tensor([[0, 2.0, 2, 23, 17], [1, -6, -6, 7, 40], [1, 5, 3, 5.5, 3.5], [0, 4, 4, 4, 4]])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_largest_samples_and_their_gradient(sampling_ratio, aligned):
    x = features(2, 2, 7, 9).requires_grad_()
    ours = roi_align(x, ROIS, (2, 3), 0.5, sampling_ratio, "max", aligned)
    expected = largest_samples(x, ROIS, (2, 3), 0.5, sampling_ratio, aligned)
    torch.testing.assert_close(ours, expected)
    weights = features(*ours.shape)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_largest_samples_a_few_regions_at_a_time(monkeypatch):
    x, rois = features(2, 2, 7, 9), ROIS.repeat(5, 1)
    whole = roi_align(x, rois, (2, 3), 0.5, 0, "max", True)
    monkeypatch.setattr(region_grid, "MAX_SAMPLES", 100)
    assert torch.equal(roi_align(x, rois, (2, 3), 0.5, 0, "max", True), whole)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradients_are_the_functions(mode):
    x = features(2, 2, 5, 6, dtype=torch.float64).requires_grad_()
    rois = ROIS[:3].double()
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 2), 0.5, 2, mode, True), x)
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, (2, 2), 0.5), x)


def pooled_pixels(x, rois, size, scale):
    """Bin by bin; an empty bin is 0."""
    height, width = x.shape[2:]
    out = []
    for index, *corners in rois.tolist():
        left, top, right, bottom = (
            corners[0] * scale,
            corners[1] * scale,
            (corners[2] + 1) * scale,
            (corners[3] + 1) * scale,
        )
        bin_height, bin_width = (bottom - top) / size[0], (right - left) / size[1]
        for plane, row, column in itertools.product(x[int(index)], range(size[0]), range(size[1])):
            rows = slice(
                *(
                    min(max(edge, 0), height)
                    for edge in (math.floor(row * bin_height + top), math.ceil((row + 1) * bin_height + top))
                )
            )
            columns = slice(
                *(
                    min(max(edge, 0), width)
                    for edge in (math.floor(column * bin_width + left), math.ceil((column + 1) * bin_width + left))
                )
            )
            pixels = plane[rows, columns]
            out.append(pixels.max() if pixels.numel() and right > left and bottom > top else plane.sum() * 0)
    return torch.stack(out).view(len(rois), x.shape[1], *size)


@settings(max_examples=25)
@given(regions())
def test_pools_the_pixels_of_each_bin(rois):
    x = features(2, 2, 7, 9).requires_grad_()
    ours, expected = roi_pool(x, rois, (2, 3), 0.5), pooled_pixels(x, rois, (2, 3), 0.5)
    torch.testing.assert_close(ours, expected)
    weights = features(*ours.shape)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_a_turned_over_region_is_empty_and_gives_no_gradient():
    x = features(1, 2, 7, 9).requires_grad_()
    out = roi_pool(x, torch.tensor([[0, 10.0, 10, 2, 2]]), (2, 2), 0.5)
    out.sum().backward()
    assert not out.any() and not x.grad.any()


@pytest.mark.parametrize("mode", [0, 1])
def test_no_regions(mode):
    x, none = features(1, 2, 7, 9), torch.empty(0, 5)
    out, y, column = (torch.empty(0, 2, 3, 3) for _ in range(3))
    roi_align_forward(x, none, out, y, column, 3, 3, 0.5, 0, mode, True)
    assert roi_pool(x, none, (3, 3), 0.5).shape == (0, 2, 3, 3)
