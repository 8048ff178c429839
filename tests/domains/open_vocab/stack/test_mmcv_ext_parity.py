"""Every case of the compiled mmcv's outputs, through mmcv's own classes and functions."""

import json

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmcv import ops
from safetensors.torch import load_file

CASES = """
    nms_0 nms_1 nms_2 nms_3 nms_ties batched_nms_0 batched_nms_1 batched_nms_2 batched_nms_3 batched_nms_4
    soft_nms_naive soft_nms_linear soft_nms_gaussian
    roi_align_aligned_0 roi_align_aligned_2 roi_align_legacy_0 roi_align_legacy_2
    deform_conv_1111 deform_conv_2221 deform_conv_1412
    modulated_deform_conv_1111 modulated_deform_conv_2221 modulated_deform_conv_1412
    psamask_collect psamask_distribute
"""  # fmt: skip


@pytest.fixture(scope="module")
def reference(parity_dir):
    """(params, tensors) of each case, by name."""
    path = parity_dir / "dev" / "mmcv_ops"
    cases = json.loads(path.with_suffix(".json").read_text())["cases"]
    tensors = load_file(path.with_suffix(".safetensors"))
    return {
        name: (case["params"], {key: tensors[f"{name}/{key}"] for key in case["tensors"]})
        for name, case in cases.items()
    }


def test_no_case_is_left_out(reference):
    assert set(CASES.split()) == set(reference)


@pytest.mark.parametrize("name", CASES.split())
def test_equals_the_compiled_operator(reference, name):
    params, tensors = reference[name]
    params = dict(params)
    run = RUNNERS[params.pop("op").rpartition(".")[2]]
    for key, value in run(params, tensors).items():
        expected = tensors[key]
        if expected.dtype == torch.int64:
            assert torch.equal(value, expected), key
        else:
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=5e-5)


def _suppress(function):
    def run(params, tensors):
        dets, keep = function(tensors["boxes"], tensors["scores"], **params)
        return {"dets": dets, "keep": keep}

    return run


def _batched(params, tensors):
    dets, keep = ops.batched_nms(tensors["boxes"], tensors["scores"], tensors["idxs"], params["nms_cfg"])
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
    return _differentiated(tensors, inputs, lambda *leaves: ops.deform_conv2d(*leaves, *params.values()))


def _modulated(params, tensors):
    inputs = ["x", "offset", "mask", "weight", "bias"]
    return _differentiated(tensors, inputs, lambda *leaves: ops.modulated_deform_conv2d(*leaves, *params.values()))


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
