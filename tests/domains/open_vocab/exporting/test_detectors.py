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
from vladapt.core.export.graph import Session
from vladapt.domains.open_vocab.exporting.detectors import Boxes, _rule
from vladapt.domains.open_vocab.exporting.run import any_size

CODER = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [0.1, 0.1, 0.2, 0.2]}
STRIDES = [4, 8, 16, 32, 64]
NMS = {"type": "nms", "iou_threshold": 0.5}
SHARED = {
    "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 32},
    "backbone": {
        "type": "ResNet", "depth": 18, "base_channels": 4, "num_stages": 4, "out_indices": (0, 1, 2, 3),
        "norm_cfg": {"type": "GN", "num_groups": 2}, "norm_eval": False,
    },
    "neck": {"type": "FPN", "in_channels": [4, 8, 16, 32], "out_channels": 8, "num_outs": 5},
}  # fmt: skip
ANCHORS = {"type": "AnchorGenerator", "ratios": [0.5, 1.0], "strides": STRIDES}
RETINANET = {
    **SHARED,
    "type": "RetinaNet",
    "bbox_head": {
        "type": "RetinaHead", "num_classes": 3, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1,
        "anchor_generator": {**ANCHORS, "octave_base_scale": 4, "scales_per_octave": 1}, "bbox_coder": CODER,
    },
    "test_cfg": {"nms_pre": 150, "min_bbox_size": 4, "score_thr": 0.2, "nms": NMS, "max_per_img": 40},
}  # fmt: skip
FASTER_RCNN = {
    **SHARED,
    "type": "FasterRCNN",
    "train_cfg": None,
    "rpn_head": {
        "type": "RPNHead", "in_channels": 8, "feat_channels": 8, "anchor_generator": {**ANCHORS, "scales": [8]},
        "bbox_coder": CODER,
    },
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor", "out_channels": 8, "featmap_strides": [4, 8, 16, 32],
            "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2},
        },
        "bbox_head": {
            "type": "Shared2FCBBoxHead", "in_channels": 8, "fc_out_channels": 16, "roi_feat_size": 7, "num_classes": 3,
            "reg_class_agnostic": True, "bbox_coder": CODER,
        },
    },
    "test_cfg": {
        "rpn": {"nms_pre": 100, "max_per_img": 50, "nms": {**NMS, "iou_threshold": 0.7}, "min_bbox_size": 0},
        "rcnn": {"score_thr": 0.2, "nms": NMS, "max_per_img": 20},
    },
}  # fmt: skip


def _built(config: dict, seed: int = 0):
    init_default_scope("mmdet")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(Config(config)._cfg_dict).eval()
        for name, parameter in model.named_parameters():  # scores that differ from place to place, none of them 0 or 1
            if "cls" in name and parameter.ndim > 1:
                parameter.data.normal_()
            elif "cls" in name:
                parameter.data.zero_()
    return model


@pytest.mark.parametrize("config", [RETINANET, FASTER_RCNN], ids=["one stage", "two stages"])
def test_graphs_and_script_find_what_mmdet_finds(config, tmp_path):
    model = _built(config)
    form, sessions = Boxes(model), {}
    for name, graph in form.graphs(torch.randn(2, 3, 192, 256), any_size(32)).items():
        graph.write(tmp_path / f"{name}.onnx", 18, {})
        sessions[name] = Session(tmp_path / f"{name}.onnx")
    for height, width in ((96, 160), (224, 192)):
        inputs, sample = torch.randn(1, 3, height, width), DetDataSample()
        size, whole = (height - 10, width - 20), (height - 10, 2 * (width - 20))
        scale = (size[1] / whole[1], size[0] / whole[0])
        sample.set_metainfo({"img_shape": size, "ori_shape": whole, "scale_factor": scale, "img_id": 0})
        with torch.no_grad():
            (wanted,) = model.predict(inputs, [sample])
        found = form.answer(sessions, inputs.numpy(), size, whole, form.facts)
        instances = wanted.pred_instances
        assert len(instances) > 5
        for ours, theirs in zip(found, (instances.bboxes, instances.scores, instances.labels), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-2, rtol=1e-3)
        assert form.same(wanted, found) == (2 * len(instances),) * 2


def test_heads_of_another_kind_are_refused_in_a_line():
    fcos = {"type": "FCOSHead", "num_classes": 3, "in_channels": 8, "feat_channels": 8, "stacked_convs": 1}
    model = _built({**SHARED, "type": "FCOS", "bbox_head": fcos, "test_cfg": RETINANET["test_cfg"]})
    with pytest.raises(CapabilityError, match=r"^FCOS with FCOSHead finds boxes in a way of its own"):
        Boxes(model).check()


def test_another_way_to_suppress_is_refused_in_a_line():
    config = {"nms": {"type": "soft_nms", "iou_threshold": 0.5}, "max_per_img": 10}
    with pytest.raises(CapabilityError, match="its config suppresses boxes by soft_nms"):
        _rule(config, "class")
