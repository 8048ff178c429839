"""Segmentors as graphs: which are taken, by what they do with their logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

from mmseg.models.segmentors import EncoderDecoder

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import CapabilityError
from vladapt.core.export.folder import Session
from vladapt.domains.open_vocab.exporting.segmentors import Maps
from vladapt.domains.open_vocab.modules.classifiers.text_mask2former import TextMask2FormerSegmentor
from vladapt.domains.open_vocab.modules.segmentors.denseclip.segmentor import DenseCLIPSegmentor


class OwnLogits(EncoderDecoder):
    """Logits in a way of its own: three bands, each less the mean of its image."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.test_cfg = {"mode": "whole"}

    def encode_decode(self, inputs, batch_img_metas):
        return inputs - inputs.mean(dim=(2, 3), keepdim=True)


class OwnMaps(OwnLogits):
    def whole_inference(self, inputs, batch_img_metas):
        return self.encode_decode(inputs, batch_img_metas).flip(3)


def test_logits_of_any_kind_are_a_graph_for_any_size(tmp_path):
    form = Maps(OwnLogits())
    form.check()
    form.graph(torch.randn(2, 3, 64, 96)).write(tmp_path / "model.onnx", 18, {})
    pixels = np.random.default_rng(0).normal(size=(1, 3, 32, 160)).astype(np.float32)
    wanted = pixels - pixels.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(Session(tmp_path / "model.onnx")(pixels=pixels)["logits"], wanted, atol=1e-5)


def test_maps_of_its_own_are_refused_in_a_line():
    with pytest.raises(CapabilityError, match=r"^OwnMaps cuts and compares images in its own way"):
        Maps(OwnMaps()).check()
    sliding = OwnLogits()
    sliding.test_cfg = {"mode": "slide"}
    with pytest.raises(CapabilityError, match="its config uses sliding windows"):
        Maps(sliding).check()


@pytest.mark.parametrize("kind", [TextMask2FormerSegmentor, DenseCLIPSegmentor])
def test_the_recipes_own_segmentors_are_taken(kind):
    model = kind.__new__(kind)
    torch.nn.Module.__init__(model)
    model.test_cfg = {"mode": "whole"}
    Maps(model).check()
