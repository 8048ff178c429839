"""Focal losses, CARAFE, masked convolution and PSA masks against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops

from vladapt.core.errors import DataError
from vladapt.domains.open_vocab.stack.mmcv_ext import carafe
from vladapt.domains.open_vocab.stack.mmcv_ext.carafe import carafe_naive_backward, carafe_naive_forward
from vladapt.domains.open_vocab.stack.mmcv_ext.masked_conv import masked_im2col_forward

OPTIONS = [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sigmoid_focal(logits, target, gamma, alpha):
    positive = F.one_hot(target.clamp(min=0), logits.shape[1] + 1)[:, :-1].bool() & (target >= 0)[:, None]
    cross = F.binary_cross_entropy_with_logits(logits, positive.to(logits), reduction="none")
    right = torch.where(positive, logits.sigmoid(), 1 - logits.sigmoid())
    return torch.where(positive, alpha, 1 - alpha) * (1 - right) ** gamma * cross


@pytest.mark.parametrize(("gamma", "alpha"), OPTIONS)
def test_sigmoid_focal_loss(gamma, alpha):
    logits = (3 * normal(6, 4, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 3, 1, 4, 2, -1])  # 4 is background, and -1 is nobody's class either
    ours = ops.sigmoid_focal_loss(logits, target, gamma, alpha, None, "none")
    expected = sigmoid_focal(logits, target, gamma, alpha)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("gamma", "alpha"), OPTIONS[:2])
def test_softmax_focal_loss_ignores_other_targets(gamma, alpha):
    logits = normal(6, 4, dtype=torch.float64).requires_grad_()
    target = torch.tensor([0, 3, 1, -1, 2, 4])
    ours = ops.softmax_focal_loss(logits, target, gamma, alpha, None, "none")
    counted = torch.tensor([0, 1, 2, 4])
    score = logits.softmax(dim=1)[counted, target[counted]]
    expected = torch.zeros(6, dtype=torch.float64).index_put((counted,), -alpha * (1 - score) ** gamma * score.log())
    torch.testing.assert_close(ours, expected)
    total = ops.softmax_focal_loss(logits, target, gamma, alpha, None, "sum")
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (total, expected.sum())]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][[3, 5]].any()


@pytest.mark.parametrize("name", ["sigmoid_focal_loss", "softmax_focal_loss"])
def test_class_weights_belong_to_the_rows_of_a_class(name):
    loss, logits, target = getattr(ops, name), normal(4, 3).requires_grad_(), torch.tensor([2, 0, 1, 3])
    weights = torch.tensor([0.5, 2.0, 3.0])
    plain, weighted = (loss(logits, target, 2.0, 0.25, weight, "none") for weight in (None, weights))
    rows = torch.tensor([3.0, 0.5, 2.0, 1.0]).view(-1, *[1] * (plain.dim() - 1))
    torch.testing.assert_close(weighted, plain * rows)
    totals = [loss(logits, target, 2.0, 0.25, weight, "sum") for weight in (weights, None)]
    gradients = [torch.autograd.grad(total, logits)[0] for total in totals]
    torch.testing.assert_close(gradients[0], gradients[1] * rows.view(-1, 1))


def test_sigmoid_focal_loss_of_saturated_logits_is_finite():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and loss > 60


def reassembled(features, masks, kernel, groups, scale):
    """By unfolding everything."""
    batch, channels, height, width = features.shape
    patches = F.unfold(features, kernel, padding=kernel // 2).view(batch, groups, channels // groups, -1, height, width)
    masks = masks.view(batch, groups, kernel * kernel, height, scale, width, scale)
    return torch.einsum("ngckhw,ngkhiwj->ngchiwj", patches, masks).reshape(
        batch, channels, height * scale, width * scale
    )


@settings(max_examples=15)
@given(
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_carafe_sums_the_neighbourhood(kernel, groups, scale, height, width):
    x = normal(2, 4, height, width, dtype=torch.float64).requires_grad_()
    masks = normal(2, groups * kernel**2, height * scale, width * scale, seed=1, dtype=torch.float64).requires_grad_()
    ours, expected = ops.carafe(x, masks, kernel, groups, scale), reassembled(x, masks, kernel, groups, scale)
    torch.testing.assert_close(ours, expected)
    weights = normal(*ours.shape, seed=2, dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weights).sum(), (x, masks)) for out in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_carafe_a_row_at_a_time(monkeypatch):
    x, masks = normal(2, 4, 6, 5), normal(2, 9, 12, 10, seed=1)
    whole = ops.carafe(x, masks, 3, 1, 2)
    monkeypatch.setattr(carafe, "MAX_PATCH_NUMBERS", 1)
    torch.testing.assert_close(ops.carafe(x, masks, 3, 1, 2), whole)
    torch.testing.assert_close(ops.carafe_naive(x, masks, 3, 1, 2), whole)


def test_naive_carafe_has_the_same_gradients(monkeypatch):
    x, masks = normal(1, 4, 4, 3).requires_grad_(), normal(1, 9, 8, 6, seed=1).requires_grad_()
    weights = normal(1, 4, 8, 6, seed=2)
    expected = torch.autograd.grad((reassembled(x, masks, 3, 1, 2) * weights).sum(), (x, masks))
    monkeypatch.setattr(carafe, "MAX_PATCH_NUMBERS", 1)
    out, filled = torch.empty(1, 4, 8, 6), (torch.empty_like(x), torch.empty_like(masks))
    carafe_naive_forward(x, masks, out, kernel_size=3, group_size=1, scale_factor=2)
    carafe_naive_backward(weights, x, masks, *filled, kernel_size=3, group_size=1, scale_factor=2)
    torch.testing.assert_close(filled, expected)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (1, 0), (3, 0)])
def test_masked_convolution_is_one_where_the_mask_is(kernel, padding):
    conv = ops.MaskedConv2d(3, 4, kernel, padding=padding)
    x, mask = normal(1, 3, 6, 7), normal(1, 6, 7, seed=1) > 0
    with torch.no_grad():
        ours, everywhere = conv(x, mask), conv(x)
    height, width = everywhere.shape[2:]
    torch.testing.assert_close(ours, everywhere * mask[:, None, :height, :width])


def test_masked_convolution_takes_one_image():
    with pytest.raises(DataError, match="2 images"):
        masked_im2col_forward(normal(2, 3, 6, 7), *torch.zeros(2, 1).long(), torch.empty(3, 1), 1, 1, 0, 0)


@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(3, 5), (9, 7), (2, 4)])
def test_psa_mask_is_its_definition(psa_type, mask_size):
    (rows, columns), (height, width) = mask_size, (4, 3)
    x = normal(2, rows * columns, height, width, dtype=torch.float64).requires_grad_()
    expected = torch.zeros(2, height * width, height * width, dtype=torch.float64)
    for place in range(height * width):
        for entry in range(rows * columns):
            row = place // width + entry // columns - (rows - 1) // 2
            column = place % width + entry % columns - (columns - 1) // 2
            if 0 <= row < height and 0 <= column < width:
                pair = (row * width + column, place) if psa_type == "collect" else (place, row * width + column)
                expected[:, pair[0], pair[1]] = x.detach()[:, entry, place // width, place % width]
    ours = ops.PSAMask(psa_type, mask_size)(x)
    assert torch.equal(ours.detach().flatten(2), expected)
    assert torch.autograd.gradcheck(ops.PSAMask(psa_type, mask_size), x)
