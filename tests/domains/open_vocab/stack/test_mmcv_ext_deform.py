"""Deformable convolution and attention against their definitions."""

import gc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

from vladapt.core.errors import DataError
from vladapt.domains.open_vocab.stack.mmcv_ext import deform_conv


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=20)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    deform_groups=st.sampled_from([1, 2]),
)
def test_without_offsets_it_is_a_convolution(kernel, stride, padding, dilation, groups, deform_groups):
    x, weight, bias = normal(2, 4, 7, 6), normal(6, 4 // groups, *kernel, seed=1), normal(6, seed=2)
    expected = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    samples = deform_groups * kernel[0] * kernel[1]
    offset = torch.zeros(2, 2 * samples, *expected.shape[2:])
    plain = ops.deform_conv2d(x, offset, weight, stride, padding, dilation, groups, deform_groups)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)
    mask = torch.full((2, samples, *expected.shape[2:]), 0.5)
    halved = ops.modulated_deform_conv2d(
        x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
    )
    torch.testing.assert_close(halved, expected / 2 + bias[:, None, None], rtol=1e-4, atol=1e-5)


def test_whole_offsets_move_the_image_by_rows_then_columns():
    x, weight = normal(1, 2, 8, 9), normal(3, 2, 1, 1, seed=1)
    offset = torch.zeros(1, 2, 8, 9)
    offset[:, 0], offset[:, 1] = 2, -1
    moved = F.pad(x, (1, 0, 0, 2))[:, :, 2:, :9]
    torch.testing.assert_close(ops.deform_conv2d(x, offset, weight), F.conv2d(moved, weight))


def test_gradients_are_the_functions():
    x, weight, bias = (
        normal(*shape, seed=seed, dtype=torch.float64) for seed, shape in enumerate([(2, 2, 4, 4), (2, 1, 2, 2), (2,)])
    )
    # Kept off whole numbers, where bilinear sampling has a kink.
    offset = 0.3 + 0.2 * normal(2, 8, 3, 3, seed=3, dtype=torch.float64).tanh()
    mask = normal(2, 4, 3, 3, seed=4, dtype=torch.float64).sigmoid()
    leaves = [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: ops.modulated_deform_conv2d(*t, 1, 0, 1, 2, 1), leaves)
    assert torch.autograd.gradcheck(lambda *t: ops.deform_conv2d(*t, 1, 0, 1, 2, 1), (x, offset, weight))


def test_one_backward_pass_calculates_gradients_once(monkeypatch):
    calls = []
    gradients = deform_conv._gradients
    monkeypatch.setattr(deform_conv, "_gradients", lambda *given: calls.append(1) or gradients(*given))
    x, offset, weight = (normal(*s).requires_grad_() for s in [(1, 2, 5, 5), (1, 18, 5, 5), (2, 2, 3, 3)])
    ops.deform_conv2d(x, offset, weight, 1, 1).sum().backward()
    assert len(calls) == 1


def test_gradients_asked_for_one_by_one_are_those_of_their_own_pass():
    x, offset, weight = (normal(*s).requires_grad_() for s in [(1, 2, 5, 5), (1, 18, 5, 5), (2, 2, 3, 3)])
    out = ops.deform_conv2d(x, offset, weight, 1, 1)
    gradient = normal(*out.shape, seed=1)
    torch.autograd.grad(out, x, gradient, retain_graph=True)
    gradient.mul_(3)
    alone = torch.autograd.grad(out, weight, gradient, retain_graph=True)[0]
    torch.testing.assert_close(alone, torch.autograd.grad(out, (x, weight), gradient.clone())[1])


def test_convolutions_that_share_a_gradient_keep_their_own():
    x, offset, frozen, weight = (normal(*s) for s in [(1, 2, 5, 5), (1, 18, 5, 5), (2, 2, 3, 3), (2, 2, 3, 3)])
    gradient = normal(1, 2, 5, 5, seed=1)
    expected = torch.autograd.grad(ops.deform_conv2d(x, offset, weight.requires_grad_(), 1, 1), weight, gradient)[0]
    out = ops.deform_conv2d(x, offset, weight, 1, 1)
    later = ops.deform_conv2d((2 * x).requires_grad_(), offset, frozen, 1, 1)  # its backward pass comes first
    (out + later).backward(gradient)
    torch.testing.assert_close(weight.grad, expected)
    del gradient, out, later
    gc.collect()
    assert len(deform_conv._kept_gradients) == 0


def larger_than_output():
    """A stride-2 convolution given offsets and masks of its input's size, as in ATSS-DyHead and GLIP."""
    x, weight, bias = normal(2, 4, 9, 7), normal(6, 4, 3, 3, seed=1), normal(6, seed=2)
    return x, normal(2, 18, 9, 7, seed=3), normal(2, 9, 9, 7, seed=4).sigmoid(), weight, bias


def test_larger_offsets_are_read_from_the_first_number_on():
    x, offset, mask, weight, bias = (tensor.requires_grad_() for tensor in larger_than_output())
    out = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 2, 1)
    assert out.shape == (2, 6, 5, 4)
    read = [
        tensor.detach().reshape(2, -1)[:, : channels * 20].reshape(2, channels, 5, 4)
        for tensor, channels in ((offset, 18), (mask, 9))
    ]
    leaves = [tensor.clone().requires_grad_() for tensor in read]
    expected = ops.modulated_deform_conv2d(x, *leaves, weight, bias, 2, 1)
    assert torch.equal(out, expected)
    for whole, part in zip(
        torch.autograd.grad(out.sum(), (offset, mask)), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        flat = whole.reshape(2, -1)
        assert torch.equal(flat[:, : part[0].numel()], part.reshape(2, -1))
        assert not flat[:, part[0].numel() :].any()


def test_offsets_too_small_for_the_output_are_named():
    x, offset, mask, weight, bias = larger_than_output()
    with pytest.raises(DataError, match=r"offset of shape \(2, 18, 2, 2\).*give 18 channels .* 5 x 4"):
        ops.modulated_deform_conv2d(x, offset[:, :, :2, :2], mask, weight, bias, 2, 1)


def attention_inputs(dtype=torch.float64):
    """Two levels, 4x3 and 2x2, of 2 heads of width 3; some samples outside."""
    shapes, starts = torch.tensor([[4, 3], [2, 2]]), torch.tensor([0, 12])
    value = normal(2, 16, 2, 3, dtype=dtype)
    locations = 0.5 + 0.4 * normal(2, 5, 2, 2, 4, 2, seed=1, dtype=dtype)
    weights = normal(2, 5, 2, 8, seed=2, dtype=dtype).softmax(dim=-1).view(2, 5, 2, 2, 4)
    return value, shapes, starts, locations, weights


def attended_one_by_one(value, shapes, starts, locations, weights):
    out = torch.zeros(*locations.shape[:3], value.shape[3], dtype=value.dtype)
    for b, q, head, level, point in torch.cartesian_prod(*map(torch.arange, locations.shape[:5])).tolist():
        height, width = shapes[level].tolist()
        x, y = (locations[b, q, head, level, point] * torch.tensor([width, height]) - 0.5).tolist()
        for row in (int(y // 1), int(y // 1) + 1):
            for column in (int(x // 1), int(x // 1) + 1):
                if 0 <= row < height and 0 <= column < width:
                    pixel = value[b, starts[level] + row * width + column, head]
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    out[b, q, head] += weights[b, q, head, level, point] * share * pixel
    return out.flatten(2)


def test_attention_is_a_weighted_sum_of_bilinear_samples():
    inputs = attention_inputs()
    torch.testing.assert_close(MultiScaleDeformableAttnFunction.apply(*inputs, 64), attended_one_by_one(*inputs))


def test_attention_takes_levels_from_where_they_start():
    value, shapes, starts, locations, weights = attention_inputs()
    swapped = torch.cat([value[:, 12:], value[:, :12]], dim=1)
    expected = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    ours = MultiScaleDeformableAttnFunction.apply(swapped, shapes, torch.tensor([4, 0]), locations, weights, 64)
    assert torch.equal(ours, expected)


def test_attention_gradients_are_the_functions():
    value, shapes, starts, locations, weights = attention_inputs()
    leaves = [tensor.requires_grad_() for tensor in (value, locations[:, :2].clone(), weights[:, :2].clone())]
    attend = MultiScaleDeformableAttnFunction.apply
    assert torch.autograd.gradcheck(lambda v, at, w: attend(v, shapes, starts, at, w, 64), leaves)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_sample_that_lies_nowhere_counts_for_nothing(value):
    """torchvision's own operators end the process at NaN."""
    x, weight, mask = normal(1, 2, 5, 5), normal(3, 2, 3, 3, seed=1), normal(1, 9, 5, 5, seed=2).sigmoid()
    offset = 0.3 * normal(1, 18, 5, 5, seed=3)
    far = offset.clone()
    offset[:, 8:10, 2, 3], far[:, 8, 2, 3], far[:, 9, 2, 3] = value, 100, 0
    for call in (lambda o: ops.deform_conv2d(x, o, weight, 1, 1), lambda o: moved(x, o, mask, weight, 1, 1)):
        one, other = offset.clone().requires_grad_(), far.clone().requires_grad_()
        got, expected = call(one), call(other)
        torch.testing.assert_close(got, expected)
        assert got.isfinite().all()
        got.sum().backward(), expected.sum().backward()
        torch.testing.assert_close(one.grad, other.grad)
        assert not one.grad[:, 8:10, 2, 3].any() and one.grad.any()


def moved(x, offset, mask, weight, stride, padding):
    return ops.modulated_deform_conv2d(x, offset, mask, weight, None, stride, padding)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_offsets_gradient_at_the_border_is_worked_out_by_hand(dtype):
    """A 2 x 2 kernel of ones on 3 x 3 pixels, padded by 1, offsets 0 and masks 1/2: samples in the padding lie at -1 or
    at 3 and give their offsets no gradient; the others lie on pixels, where the gradient is the step to the next pixel.
    The numbers that mmcv's own test of the layer holds."""
    layer = ops.ModulatedDeformConv2dPack(1, 1, kernel_size=2, padding=1, bias=False).to(dtype)
    torch.nn.init.ones_(layer.weight)
    x = torch.tensor([[[[1.0, 2, 3]] * 3]], dtype=dtype, requires_grad=True)
    out = layer(x)
    rows = [[0.5, 1.5, 2.5, 1.5], [1.0, 3, 5, 3], [1, 3, 5, 3], [0.5, 1.5, 2.5, 1.5]]
    torch.testing.assert_close(out, torch.tensor([[rows]], dtype=dtype))
    out.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2)) and torch.equal(
        layer.weight.grad, torch.full((1, 1, 2, 2), 9.0).to(dtype)
    )
    down, right, masks = [-3, -3, -3, -3], [-1.5] * 4, [4.5] * 4
    bias = [number for pair in zip(down, right) for number in pair] + masks
    torch.testing.assert_close(layer.conv_offset.bias.grad, torch.tensor(bias, dtype=dtype))
    of_first_row, of_first_column = [[-7, -4], [0, 0]], [[-9, 7.5], [-6, 5]]
    expected = torch.tensor([of_first_row, of_first_column], dtype=dtype)
    torch.testing.assert_close(layer.conv_offset.weight.grad[:2, 0], expected)


def test_a_sample_at_minus_one_gives_no_gradient_in_either_version():
    x, weight = normal(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 4, 4)
    offset[:, 0, 0], offset[:, 1, :, 3] = -1, 1  # the first row lies at row -1, the last column at column 4
    for call in (ops.deform_conv2d, lambda x, o, w: moved(x, o, torch.ones(1, 1, 4, 4), w, 1, 0)):
        leaf = offset.clone().requires_grad_()
        call(x, leaf, weight).sum().backward()
        assert not leaf.grad[:, :, 0].any() and not leaf.grad[..., 3].any() and leaf.grad[:, :, 1:, :3].all()
