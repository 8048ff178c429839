"""Pictures as predict.py of detectors and segmentors prepares them, beside the test pipeline's own."""

import json

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import torch
import torch.nn.functional as F
from mmcv.image import imrescale

from vladapt.core.export.scripts import pictures
from vladapt.core.runtime.reading import sha256_in
from vladapt.domains.open_vocab.exporting.run import sizes_by_strides

AS_IT_IS = {"channels": "rgb", "mean": [0] * 3, "std": [1] * 3, "multiple": 32, "padding": 7}


@pytest.mark.parametrize("shape", [(301, 477), (640, 201), (90, 50)])
def test_pictures_are_resized_as_opencv_does_to_the_grey_level(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    planes, (height, width) = pictures.pixels(image, {**AS_IT_IS, "largest": [160, 128], "enlarge": True})
    assert planes.shape[2] % 32 == planes.shape[3] % 32 == 0
    np.testing.assert_array_equal(planes[0, :, :height, :width].transpose(1, 2, 0), imrescale(image, (160, 128)))
    assert (planes[0, :, height:] == 7).all()


@pytest.mark.parametrize("content", [b"other", None])
def test_a_graph_that_is_not_as_it_was_written_is_not_asked(tmp_path, content):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    facts = {"graphs": {"model": "model.onnx"}, "sha256": sha256_in(tmp_path)}
    (tmp_path / "export.json").write_text(json.dumps(facts))
    (tmp_path / "model.onnx").unlink() if content is None else (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(SystemExit, match=r"model\.onnx: missing, damaged or replaced; copy the whole folder"):
        pictures.facts_of(tmp_path)


def test_what_fits_is_not_enlarged():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    assert pictures.pixels(image, {**AS_IT_IS, "largest": [160, 128], "enlarge": False})[1] == (40, 60)


def test_logits_are_resized_as_torch_does():
    logits = np.random.default_rng(0).normal(size=(7, 9, 3)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(logits).permute(2, 0, 1)[None], size=(20, 13), mode="bilinear")
    np.testing.assert_allclose(pictures.enlarged(logits, 20, 13), wanted[0].permute(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_padding_by_strides_is_that_of_the_backbone(kernel, stride):
    utils = pytest.importorskip("efficientnet_lite_pytorch.utils", reason="extra embedded is not installed")
    layer, pixels = utils.Conv2dDynamicSamePadding(3, 4, kernel, stride), torch.randn(1, 3, 32, 64)
    wanted = layer(pixels)
    with sizes_by_strides():
        torch.testing.assert_close(layer(pixels), wanted, rtol=0, atol=0)


def test_a_graph_is_asked_by_names_and_its_idle_threads_leave_the_cores_alone(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="extra export is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra export is not installed")
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B"]) for name in ("pixels", "logits")]
    minus = onnx.helper.make_node("Neg", ["pixels"], ["logits"])
    graph = onnx.helper.make_graph([minus], "minus", sides[:1], sides[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), str(tmp_path / "model.onnx"))
    spins = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, **named):
            super().__init__(path, options, **named)
            spins.append(options.get_session_config_entry("session.intra_op.allow_spinning"))

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    outputs = pictures.asked(tmp_path, {"graphs": {"model": "model.onnx"}})({"pixels": np.float32([1, 2])})
    assert outputs["logits"].tolist() == [-1, -2] and spins == ["0"]
