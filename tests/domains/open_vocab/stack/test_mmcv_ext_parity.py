"""Every case of the compiled mmcv's outputs, through mmcv's own classes and functions."""

import json

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops
from parity_checks.fixtures import stated_in
from safetensors.torch import load_file

OPERATORS = ("nms", "soft_nms", "batched_nms", "RoIAlign", "deform_conv2d", "modulated_deform_conv2d", "PSAMask")
CONVOLUTION = ("stride", "padding", "dilation", "groups", "deform_groups")


@pytest.fixture(scope="module")
def reference(parity):
    """(params, tensors) of each case, by name, and the tolerance of values and gradients."""
    path = parity.folder / "mmcv_ops"
    if not path.with_suffix(".json").is_file():
        pytest.skip("no mmcv_ops among the reference outputs")
    facts, tensors = json.loads(path.with_suffix(".json").read_text()), load_file(path.with_suffix(".safetensors"))
    cases = {
        name: (case["params"], {key: tensors[f"{name}/{key}"] for key in case["tensors"]})
        for name, case in facts["cases"].items()
    }
    return cases, {name: stated_in(facts["tolerance"], name) for name in ("rtol", "atol")}


def operator(params) -> str:
    return params["op"].rpartition(".")[2]


def test_no_operator_is_left_out(reference):
    assert {operator(params) for params, _ in reference[0].values()} <= set(OPERATORS)


@pytest.mark.parametrize("op", OPERATORS)
def test_equals_the_compiled_operator(reference, op):
    cases, tolerance = reference
    for name, (params, tensors) in cases.items():
        if operator(params) != op:
            continue
        options = {key: value for key, value in params.items() if key != "op"}
        for key, value in RUNNERS[op](options, tensors).items():
            expected = tensors[key]
            if expected.dtype == torch.int64:
                assert torch.equal(value, expected), (name, key)
            else:
                torch.testing.assert_close(value, expected, **tolerance, msg=lambda m, k=(name, key): f"{k}: {m}")


def _suppress(function):
    def run(params, tensors):
        dets, keep = function(tensors["boxes"], tensors["scores"], **params)
        return {"dets": dets, "keep": keep}

    return run


def _batched(params, tensors):
    dets, keep = ops.batched_nms(tensors["boxes"], tensors["scores"], tensors["idxs"], **params)
    return {"dets": dets, "keep": keep}


def _differentiated(tensors, inputs, function):
    leaves = [tensors[name].clone().requires_grad_() for name in inputs]
    out = function(*leaves)
    out.backward(tensors["grad_out"])
    return {"out": out.detach()} | {f"grad_{name}": leaf.grad for name, leaf in zip(inputs, leaves, strict=True)}


def _roi_align(params, tensors):
    return _differentiated(tensors, ["x"], lambda x: ops.RoIAlign(**params)(x, tensors["rois"]))


def _deform_conv(params, tensors):
    inputs = ["x", "offset", "weight"]
    return _differentiated(tensors, inputs, lambda *leaves: ops.deform_conv2d(*leaves, *_ordered(params)))


def _modulated(params, tensors):
    inputs = ["x", "offset", "mask", "weight", "bias"]
    return _differentiated(tensors, inputs, lambda *leaves: ops.modulated_deform_conv2d(*leaves, *_ordered(params)))


def _ordered(params) -> list[int]:
    """These functions take no keywords."""
    return [params[name] for name in CONVOLUTION]


def _psa_mask(params, tensors):
    return _differentiated(tensors, ["x"], ops.PSAMask(params["psa_type"], params["mask_size"]))


RUNNERS = {
    "nms": _suppress(ops.nms),
    "soft_nms": _suppress(ops.soft_nms),
    "batched_nms": _batched,
    "RoIAlign": _roi_align,
    "deform_conv2d": _deform_conv,
    "modulated_deform_conv2d": _modulated,
    "PSAMask": _psa_mask,
}
