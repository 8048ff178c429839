"""Small detectors and segmentors whose classes are texts, and pictures for them."""

from __future__ import annotations

import pytest

NAMES = "cat, dog, lake"
NORM = {"type": "GN", "num_groups": 2}
ASSIGN = {"type": "mmdet.MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5}
SAMPLE = {"type": "mmdet.RandomSampler", "num": 32, "pos_fraction": 0.5, "neg_pos_ub": -1}
NMS = {"type": "nms", "iou_threshold": 0.7}
CODER = {"type": "mmdet.DeltaXYWHBBoxCoder"}


@pytest.fixture(scope="session")
def trunk(small_clip_spec) -> dict:
    """`data_preprocessor` and `backbone`: strides 2 to 32, 8 channels."""
    return {
        "backbone": {
            "type": "vladapt.CLIPVisionBackbone",
            "backbone": small_clip_spec,
            "out_channels": 8,
            "num_outs": 5,
        }
    }


@pytest.fixture(scope="session")
def detector(trunk, small_clip_spec):
    """kind, classifier options -> the config of a detector."""

    def config(kind: str, head: dict | None = None, **classifier) -> dict:
        classifier = {"backbone": small_clip_spec, "classes": NAMES, "temperature": 0.2, **classifier}
        build = {"retina": _retina, "faster": _two_stage, "mask": _two_stage}[kind]
        made = {
            **trunk,
            "data_preprocessor": {"type": "mmdet.DetDataPreprocessor", "pad_size_divisor": 32, "pad_mask": True},
            **build(classifier, head or {}),
        }
        if kind == "mask":
            made["type"] = "mmdet.MaskRCNN"
            made["roi_head"].update(
                mask_roi_extractor=_extractor(4),
                mask_head={
                    "type": "vladapt.ClassAgnosticMaskHead",
                    "num_convs": 1,
                    "in_channels": 8,
                    "conv_out_channels": 8,
                    "num_classes": 80,  # of a base config
                    "loss_mask": {"type": "mmdet.CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
                },
            )
        return made

    return config


@pytest.fixture(scope="session")
def segmentor(trunk, small_clip_spec):
    """kind, classifier options -> the config of a segmentor."""

    def config(kind: str, test_cfg: dict | None = None, **classifier) -> dict:
        classifier = {"backbone": small_clip_spec, "classes": NAMES, **classifier}
        shared = {"channels": 8, "norm_cfg": NORM, "num_classes": 150, "classifier": classifier, "dropout_ratio": 0.0}
        four = {"in_channels": [8] * 4, "in_index": [0, 1, 2, 3], **shared}
        auxiliary = {"type": "vladapt.TextFCNHead", "in_channels": 8, "in_index": 2, "num_convs": 1, **shared}
        made = {
            "type": "mmseg.EncoderDecoder",
            "data_preprocessor": {"type": "mmseg.SegDataPreProcessor", "size_divisor": 32},
            **trunk,
            "test_cfg": test_cfg or {"mode": "whole"},
        }
        if kind == "fpn":
            return {**made, "decode_head": {"type": "vladapt.TextFPNHead", "feature_strides": [2, 4, 8, 16], **four}}
        head = {"type": "vladapt.TextUPerHead", "pool_scales": (1, 2), **four}
        return {**made, "decode_head": head, "auxiliary_head": auxiliary}

    return config


def _retina(classifier: dict, head: dict) -> dict:
    return {
        "type": "mmdet.RetinaNet",
        "neck": None,
        "bbox_head": {
            "type": "vladapt.TextRetinaHead",
            "classifier": classifier,
            "num_classes": 80,  # of a base config
            "in_channels": 8,
            "feat_channels": 8,
            "stacked_convs": 1,
            "anchor_generator": {
                "type": "mmdet.AnchorGenerator",
                "octave_base_scale": 4,
                "scales_per_octave": 1,
                "ratios": [0.5, 1.0],
                "strides": [2, 4, 8, 16, 32],
            },
            "bbox_coder": CODER,
            "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
            "loss_bbox": {"type": "mmdet.L1Loss"},
            **head,
        },
        "train_cfg": {
            "assigner": {**ASSIGN, "neg_iou_thr": 0.4, "min_pos_iou": 0},
            "sampler": {"type": "mmdet.PseudoSampler"},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {"nms_pre": 200, "min_bbox_size": 0, "score_thr": 0.0, "nms": NMS, "max_per_img": 50},
    }


def _two_stage(classifier: dict, head: dict) -> dict:
    rpn_test = {"nms_pre": 100, "max_per_img": 50, "nms": NMS, "min_bbox_size": 0}
    common = {"sampler": SAMPLE, "allowed_border": -1, "pos_weight": -1, "debug": False}
    return {
        "type": "mmdet.FasterRCNN",
        "rpn_head": {
            "type": "mmdet.RPNHead",
            "in_channels": 8,
            "feat_channels": 8,
            "anchor_generator": {
                "type": "mmdet.AnchorGenerator",
                "scales": [8],
                "ratios": [1.0],
                "strides": [2, 4, 8, 16, 32],
            },
            "bbox_coder": CODER,
            "loss_cls": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "mmdet.L1Loss"},
        },
        "roi_head": {
            "type": "mmdet.StandardRoIHead",
            "bbox_roi_extractor": _extractor(3),
            "bbox_head": {
                "type": "vladapt.TextShared2FCBBoxHead",
                "classifier": classifier,
                "in_channels": 8,
                "fc_out_channels": 16,
                "roi_feat_size": 3,
                "num_classes": 80,  # of a base config, as is the next
                "reg_class_agnostic": False,
                "bbox_coder": CODER,
                "loss_cls": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": False},
                "loss_bbox": {"type": "mmdet.L1Loss"},
                **head,
            },
        },
        "train_cfg": {
            "rpn": {"assigner": ASSIGN, **common, "sampler": {**SAMPLE, "add_gt_as_proposals": False}},
            "rpn_proposal": rpn_test,
            "rcnn": {"assigner": ASSIGN, "mask_size": 8, **common},
        },
        "test_cfg": {
            "rpn": rpn_test,
            "rcnn": {"score_thr": 0.0, "nms": NMS, "max_per_img": 50, "mask_thr_binary": 0.5},
        },
    }


def _extractor(size: int) -> dict:
    return {
        "type": "mmdet.SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 2},
        "out_channels": 8,
        "featmap_strides": [2, 4, 8, 16],
    }
