"""Detectors of mmdet as graphs, and what predict.py keeps of their boxes, beside mmdet's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine import Config
from mmengine.registry import init_default_scope

from vladapt.core.errors import CapabilityError
from vladapt.core.export.folder import Session
from vladapt.core.export.scripts import boxes
from vladapt.domains.open_vocab.exporting.detectors import BoxForm, Levels, _rule
from vladapt.domains.open_vocab.modules.detectors.denseclip import DenseCLIPDetector

NMS = {"type": "nms", "iou_threshold": 0.5}
RETINANET = {
    "type": "RetinaNet",
    "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 32},
    "backbone": {
        "type": "ResNet", "depth": 18, "base_channels": 4, "num_stages": 4, "out_indices": (2, 3),
        "norm_cfg": {"type": "GN", "num_groups": 2}, "norm_eval": False,
    },
    "neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2},
    "bbox_head": {
        "type": "RetinaHead", "num_classes": 3, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1,
        "anchor_generator": {
            "type": "AnchorGenerator", "ratios": [0.5, 1.0], "strides": [16, 32], "octave_base_scale": 4,
            "scales_per_octave": 1,
        },
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]
        },
    },
    "test_cfg": {"nms_pre": 50, "min_bbox_size": 4, "score_thr": 0.2, "nms": NMS, "max_per_img": 40},
}  # fmt: skip


FCOS = {
    **RETINANET, "type": "FCOS",
    "bbox_head": {
        "type": "FCOSHead", "num_classes": 3, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1,
        "strides": [16, 32], "regress_ranges": ((-1, 64), (64, 1e8)), "norm_cfg": {"type": "GN", "num_groups": 2},
    },
}  # fmt: skip
ATSS = {
    **RETINANET, "type": "ATSS",
    "bbox_head": {
        **RETINANET["bbox_head"], "type": "ATSSHead",
        "anchor_generator": {"type": "AnchorGenerator", "ratios": [1.0], "strides": [16, 32], "octave_base_scale": 4,
                             "scales_per_octave": 1},
        "norm_cfg": {"type": "GN", "num_groups": 2},
    },
    "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _mmdet():
    init_default_scope("mmdet")


def _built(config: dict):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(Config(config)._cfg_dict).eval()
        last = {"RetinaHead": "retina_cls", "FCOSHead": "conv_cls", "ATSSHead": "atss_cls"}
        layer = getattr(model.bbox_head, last[config["bbox_head"]["type"]])
        torch.nn.init.normal_(layer.weight, std=0.02)  # scores that differ, none of them 0 or 1
        torch.nn.init.zeros_(layer.bias)
        if config["type"] == "FCOS":
            torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.5)  # boxes of some pixels, at first of two
    model.cfg = Config({"vladapt": {"classes": ["a", "b", "c"], "suppress": "none"}})
    return model


@pytest.mark.parametrize("config", [RETINANET, FCOS, ATSS], ids=["RetinaNet", "FCOS", "ATSS"])
def test_graph_and_script_find_what_mmdet_finds_in_any_size(config, tmp_path):
    form = BoxForm(_built(config))
    form.check()
    form.graph(torch.randn(1, 3, 64, 96)).write(tmp_path / "model.onnx", 18, {})
    ask = Session(tmp_path / "model.onnx")
    for height, width in ((96, 160), (224, 192)):
        inputs = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        sample, size, whole = DetDataSample(), (height - 10, width - 20), (height - 10, 2 * (width - 20))
        scale = (size[1] / whole[1], size[0] / whole[0])
        sample.set_metainfo({"img_shape": size, "ori_shape": whole, "scale_factor": scale, "img_id": 0})
        with torch.no_grad():
            (wanted,) = form.model.predict(inputs, [sample])
        found = form.answer(ask(pixels=inputs.numpy()), size, whole, form.facts)
        assert len(wanted.pred_instances) > 5
        assert form.same(wanted, found) == (2 * len(wanted.pred_instances),) * 2
        moved = (found[0] + 1, *found[1:])
        assert form.same(wanted, moved)[0] < 2 * len(wanted.pred_instances)


def test_of_names_that_were_not_learned_together_the_surest_has_a_thing_alone():
    outputs = {
        "scores_0": np.float32([[[0.9, 0.8, 0.0], [0.0, 0.0, 0.7]]]),
        "boxes_0": np.float32([[[0, 0, 10, 10], [0, 0, 10, 9]]]),
    }
    rule = {"score_thr": 0.1, "nms_pre": 9, "min_bbox_size": 0, "iou_threshold": 0.5, "max_per_img": 9}
    for together, kept in (([True] * 3, [0, 1, 2]), ([True, True, False], [0, 1]), ([False] * 3, [0])):
        found = boxes.boxes_of(outputs, (20, 20), (20, 20), {**rule, "learned_together": together})
        assert found[2].tolist() == kept


def test_a_second_stage_and_other_heads_are_refused_in_a_line():
    gfl = {**ATSS["bbox_head"], "type": "GFLHead", "reg_max": 4, "loss_cls": {"type": "QualityFocalLoss"}}
    gfl.pop("bbox_coder")
    model = MODELS.build(Config({**ATSS, "type": "GFL", "bbox_head": gfl})._cfg_dict)
    with pytest.raises(CapabilityError, match=r"^GFL with GFLHead finds boxes in its own way"):
        BoxForm(model).check()
    with pytest.raises(CapabilityError, match=r"^Linear finds boxes in its own way"):
        BoxForm(torch.nn.Linear(1, 1)).check()


def test_another_way_to_suppress_is_refused_in_a_line():
    config = {"nms": {"type": "soft_nms", "iou_threshold": 0.5}, "max_per_img": 10}
    with pytest.raises(CapabilityError, match="its config suppresses boxes by soft_nms"):
        _rule(config)


def test_a_detector_inside_another_is_what_finds_boxes_in_its_maps():
    whole = DenseCLIPDetector.__new__(DenseCLIPDetector)
    torch.nn.Module.__init__(whole)
    whole.detector = _built(RETINANET)
    whole.cfg, whole.extract_feat = whole.detector.cfg, lambda pixels: whole.detector.extract_feat(pixels.flip(3))
    form = BoxForm(whole)
    form.check()
    pixels = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        graph = form.graph(pixels).module
        pairs = zip(graph(pixels), Levels(whole.detector, whole.detector.bbox_head)(pixels.flip(3)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert form.facts["boxes"]["max_per_img"] == 40


def test_an_export_says_the_score_that_was_chosen_on_val():
    model = _built(RETINANET)
    assert BoxForm(model).facts["score"] == boxes.UNSURE
    model.cfg.vladapt["confidence"] = {"score": 0.45}
    assert BoxForm(model).facts["score"] == 0.45
