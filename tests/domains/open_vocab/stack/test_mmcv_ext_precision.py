"""The operators under autocast, on 16-bit tensors, and on the device of what they are given."""

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

BOXES = torch.tensor([[2.0, 2, 14, 12], [1, 3, 13, 14], [0, 0, 30, 22], [5, 5, 9, 9]])
ROIS = torch.cat([torch.tensor([[0.0], [1], [1], [0]]), BOXES], dim=1)
SCORES = torch.tensor([0.75, 0.5, 0.25, 0.875])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(value, locations, weights):
    shapes, starts = (torch.tensor(rows, device=value.device) for rows in ([[4, 4], [2, 2]], [0, 16]))
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def focal(name):
    def loss(logits, target):
        return getattr(ops, name)(logits, target, 2.0, 0.25, None, "sum")

    return loss


def masked(x, mask, weight, bias):
    return ops.masked_conv2d(x, mask, weight, bias, 1)


# Each operator with inputs for it; those of floating point that are trained come first.
CASES = {
    "nms": (lambda boxes, scores: ops.nms(boxes, scores, 0.3), (BOXES, SCORES), 0),
    "nms, offset": (lambda boxes, scores: ops.nms(boxes, scores, 0.3, offset=1), (BOXES, SCORES), 0),
    "soft_nms": (lambda boxes, scores: ops.soft_nms(boxes, scores, 0.3), (BOXES, SCORES), 0),
    "nms_match": (lambda dets: ops.nms_match(dets, 0.3), (torch.cat([BOXES, SCORES[:, None]], dim=1),), 0),
    "bbox_overlaps": (ops.bbox_overlaps, (BOXES, BOXES), 0),
    "roi_align": (lambda x, rois: ops.roi_align(x, rois, 3, 0.5, 0, "avg", True), (normal(2, 3, 12, 16), ROIS), 1),
    "roi_align, max": (lambda x, rois: ops.roi_align(x, rois, 3, 0.5, 0, "max", True), (normal(2, 3, 12, 16), ROIS), 1),
    "roi_pool": (lambda x, rois: ops.roi_pool(x, rois, 3, 0.5), (normal(2, 3, 12, 16), ROIS), 1),
    "deform_conv": (
        lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, 1, 1),
        (normal(2, 3, 6, 5), normal(2, 18, 6, 5), normal(4, 3, 3, 3)),
        3,
    ),
    "modulated_deform_conv": (
        lambda x, offset, mask, weight: ops.modulated_deform_conv2d(x, offset, mask, weight, None, 2, 1),
        (normal(2, 3, 6, 5), normal(2, 18, 6, 5), normal(2, 9, 6, 5).sigmoid(), normal(4, 3, 3, 3)),
        4,
    ),
    "ms_deform_attn": (attention, (normal(2, 20, 2, 3), normal(2, 5, 2, 2, 4, 2).sigmoid(), normal(2, 5, 2, 2, 4)), 3),
    "sigmoid_focal_loss": (focal("sigmoid_focal_loss"), (normal(4, 3), torch.tensor([0, 3, 2, 1])), 1),
    "softmax_focal_loss": (focal("softmax_focal_loss"), (normal(4, 3), torch.tensor([0, -1, 2, 1])), 1),
    "carafe": (lambda x, masks: ops.carafe(x, masks, 3, 1, 2), (normal(2, 4, 5, 4), normal(2, 9, 10, 8)), 2),
    "masked_conv": (masked, (normal(1, 3, 6, 5), normal(1, 6, 5) > 0, normal(4, 3, 3, 3), normal(4)), 0),
    "psa_mask": (ops.PSAMask("collect", (3, 5)), (normal(2, 15, 4, 3),), 1),
}  # fmt: skip
NARROW = (torch.float16, torch.bfloat16)


def run(name, dtype=torch.float32, device="cpu"):
    """Every output of an operator, and the gradient of its first inputs."""
    function, inputs, trained = CASES[name]
    inputs = [x.to(device, dtype if x.is_floating_point() else None, copy=True) for x in inputs]
    leaves = [x.requires_grad_() for x in inputs[:trained]]
    out = function(*inputs)
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    if leaves:
        weights = torch.linspace(0.5, 1.5, outs[0].numel(), device=device).view(outs[0].shape)
        outs += torch.autograd.grad((outs[0].float() * weights).sum(), leaves)
    return [x.detach() for x in outs]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", NARROW)
def test_16_bit_inputs_give_what_float32_gives_of_them(name, dtype, monkeypatch):
    function, inputs, trained = CASES[name]
    rounded = tuple(x.to(dtype).float() if x.is_floating_point() else x for x in inputs)
    narrow = run(name, dtype)
    monkeypatch.setitem(CASES, name, (function, rounded, trained))
    for ours, exact in zip(narrow, run(name), strict=True):
        assert ours.dtype == (dtype if exact.is_floating_point() else exact.dtype)
        tolerance = 4 * torch.finfo(dtype).eps if exact.is_floating_point() else 0
        torch.testing.assert_close(ours.to(exact.dtype), exact, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"masked_conv"}))
def test_autocast_changes_nothing_inside(name):
    plain = run(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run(name)
    for ours, exact in zip(cast, plain, strict=True):
        assert torch.equal(ours, exact)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_made_on_another_device(name):
    """On the meta device nothing can be calculated: a tensor made without naming a device would show."""
    function, inputs, _ = CASES[name]
    expected = run(name)[0]
    with torch.device("meta"):
        out = function(*inputs)
    assert torch.equal(out[0] if isinstance(out, (tuple, list)) else out, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", CASES)
def test_cuda_gives_what_the_cpu_gives(name):
    for ours, exact in zip(run(name, device="cuda"), run(name), strict=True):
        torch.testing.assert_close(ours.cpu(), exact, rtol=1e-4, atol=1e-5)
