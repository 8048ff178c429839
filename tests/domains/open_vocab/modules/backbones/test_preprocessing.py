"""Data preprocessors of mm configs give a tower the pixels that it was trained on."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.registry import MODELS
from mmseg.structures import SegDataSample

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.backbones.load import load_backbone
from vladapt.domains.open_vocab.modules.backbones import detection_preprocessor, segmentation_preprocessor


@pytest.mark.parametrize("make", [detection_preprocessor, segmentation_preprocessor])
def test_pixels_are_those_of_the_backbones_own_preprocessing(small_clip_spec, make):
    from PIL import Image

    rgb = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    backbone = load_backbone(small_clip_spec, "cpu")
    own = backbone.preprocess()(Image.fromarray(rgb.numpy()))
    preprocessor = MODELS.build(make(small_clip_spec))
    bgr = rgb.flip(-1).permute(2, 0, 1)
    made = preprocessor({"inputs": [bgr], "data_samples": [SegDataSample(metainfo={"img_shape": (16, 16)})]})
    torch.testing.assert_close(made["inputs"][0][:, :16, :16], own)


def test_batches_are_padded_to_whole_strides():
    assert detection_preprocessor("embedded")["pad_size_divisor"] == 32
    assert segmentation_preprocessor("embedded")["size_divisor"] == 32


def test_options_go_to_the_preprocessor(small_clip_spec):
    assert detection_preprocessor(small_clip_spec, pad_size_divisor=64)["pad_size_divisor"] == 64
    sized = segmentation_preprocessor(small_clip_spec, size=(64, 64))
    assert "size_divisor" not in sized
    MODELS.build(sized)
