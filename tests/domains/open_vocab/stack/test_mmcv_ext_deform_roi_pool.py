"""Bins that are moved: against RoIAlign of moved regions, by gradients, and by numbers worked out by hand."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops
from mmcv.ops.deform_roi_pool import deform_roi_pool

from vladapt.domains.open_vocab.stack.mmcv_ext import region_grid

ROIS = torch.tensor([[0, 2.0, 2, 23, 17], [1, -6, -6, 7, 40], [1, 5, 3, 5.5, 3.5], [0, 4, 4, 4, 4]])


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=15)
@given(sampling_ratio=st.sampled_from([0, 1, 3]), size=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_without_offsets_it_is_roi_align(sampling_ratio, size):
    x = drawn(2, 3, 7, 9)
    expected = torchvision.ops.roi_align(x, ROIS, size, 0.5, sampling_ratio, aligned=True)
    for offset in (None, torch.zeros(len(ROIS), 2, *size)):
        ours = deform_roi_pool(x, ROIS, offset, size, 0.5, sampling_ratio, 0.1)
        torch.testing.assert_close(ours, expected)


def test_a_bin_is_moved_by_its_share_of_the_regions_size():
    """x first; one bin at a time, as RoIAlign pools the moved region."""
    x, size, gamma = drawn(2, 2, 12, 12), (2, 3), 0.1
    offset = drawn(len(ROIS), 2, *size, seed=1)
    ours = deform_roi_pool(x, ROIS, offset, size, 0.5, 2, gamma)
    width, height = (ROIS[:, 3:] - ROIS[:, 1:3]).T
    for row in range(size[0]):
        for column in range(size[1]):
            dx, dy = gamma * width * offset[:, 0, row, column], gamma * height * offset[:, 1, row, column]
            moved = ROIS + torch.stack([torch.zeros_like(dx), dx, dy, dx, dy], dim=1)
            expected = torchvision.ops.roi_align(x, moved, size, 0.5, 2, aligned=True)
            torch.testing.assert_close(ours[..., row, column], expected[..., row, column])


def test_gradients_are_the_functions():
    """Inside the image; at its border the offset's is mmcv's, see below."""
    x = drawn(2, 2, 12, 14, dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[0, 3.1, 4.2, 15.3, 17.7], [1, 5, 3, 19, 16]]).double()
    offset = drawn(2, 2, 2, 2, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, o: deform_roi_pool(x, rois, o, 2, 0.5, 2, 0.1), (x, offset), eps=1e-7)
    assert torch.autograd.gradcheck(lambda x, o: deform_roi_pool(x, rois, o, 2, 0.5, 0, 0.1), (x, offset), eps=1e-7)


def test_a_few_bins_at_a_time_are_the_same(monkeypatch):
    x, offset = drawn(2, 2, 7, 9).requires_grad_(), drawn(len(ROIS), 2, 2, 3, seed=1).requires_grad_()

    def run():
        out = deform_roi_pool(x, ROIS, offset, (2, 3), 0.5, 0, 0.1)
        return out, *torch.autograd.grad(out.square().sum(), (x, offset))

    whole = run()
    monkeypatch.setattr(region_grid, "MAX_SAMPLES", 7)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pack", [ops.DeformRoIPoolPack, ops.ModulatedDeformRoIPoolPack])
def test_the_layers_of_mmcv_on_numbers_worked_out_by_hand(pack):
    """Two by two pixels, a region over them, bins of two by two samples, offsets of 0: those of mmcv's own test."""
    x = torch.tensor([[[[1.0, 2], [3, 4]]]], requires_grad=True)
    layer = pack((2, 2), 1, spatial_scale=1.0, sampling_ratio=2)
    out = layer(x, torch.tensor([[0.0, 0, 0, 1, 1]]))
    share = 1.0 if pack is ops.DeformRoIPoolPack else 0.5  # a mask starts at sigmoid(0)
    torch.testing.assert_close(out, share * torch.tensor([[[[1, 1.25], [1.5, 1.75]]]]))
    out.sum().backward()
    torch.testing.assert_close(x.grad, share * torch.tensor([[[[3.0625, 0.4375], [0.4375, 0.0625]]]]))
    assert layer.offset_fc[-1].weight.grad.abs().sum() > 0


def test_the_offset_at_the_border_has_the_gradient_of_mmcvs_kernel():
    """A sample half a pixel above the first row: drawn from that row, yet its slope is that of the first two rows, and
    the slope along the row is drawn out beyond it. Below the last row there is neither."""
    x = torch.tensor([[[[0.0, 1], [10, 13]]]])
    rois, offset = torch.tensor([[0, 0.5, -0.5, 1.5, 0.5]]), torch.zeros(1, 2, 1, 1, requires_grad=True)
    out = deform_roi_pool(x, rois, offset, 1, 1.0, 1, 1.0)  # a sample at row -1/2, column 1/2
    out.sum().backward()
    assert out.tolist() == [[[[0.5]]]]
    assert offset.grad.flatten().tolist() == [1.5 * 1 + (-0.5) * 3, 0.5 * 10 + 0.5 * 12]
    below = torch.zeros(1, 2, 1, 1, requires_grad=True)
    deform_roi_pool(x, torch.tensor([[0, 0.5, 1.5, 1.5, 2.5]]), below, 1, 1.0, 1, 1.0).sum().backward()
    assert below.grad.flatten().tolist() == [0, 0]
