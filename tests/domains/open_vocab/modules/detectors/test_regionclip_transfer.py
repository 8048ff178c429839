"""RegionCLIP's transfer: a C4 Faster R-CNN on CLIP's ResNet, its classes texts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.domains.open_vocab.modules.detectors.regionclip.proposals import region_features
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

NAMES = ["red shape", "green shape", "blue shape"]


def faster_rcnn(spec: str, classes=NAMES, head: dict | None = None, roi: int = 2) -> dict:
    """A C4 Faster R-CNN on CLIP's ResNet."""
    anchors = {"type": "mmdet.AnchorGenerator", "scales": [0.75], "ratios": [1.0], "strides": [16]}
    nms = {"type": "nms", "iou_threshold": 0.5}
    assigner = {"type": "mmdet.MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.3}
    sampler = {"type": "mmdet.RandomSampler", "num": 16, "pos_fraction": 0.5, "neg_pos_ub": -1}
    train = {"assigner": {**assigner, "match_low_quality": True}, "pos_weight": -1, "allowed_border": -1}
    proposal = {"nms_pre": 40, "max_per_img": 16, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    config = {
        "type": "mmdet.FasterRCNN",
        "data_preprocessor": {"type": "mmdet.DetDataPreprocessor", "mean": [120.0] * 3, "std": [60.0] * 3},
        "backbone": {"type": "vladapt.CLIPC4Backbone", "backbone": spec},
        "rpn_head": {
            "type": "mmdet.RPNHead",
            "in_channels": 128,
            "feat_channels": 16,
            "anchor_generator": anchors,
            "bbox_coder": {"type": "mmdet.DeltaXYWHBBoxCoder"},
            "loss_cls": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "mmdet.L1Loss"},
        },
        "roi_head": {
            "type": "vladapt.AttentionPoolRoIHead",
            "bbox_roi_extractor": {
                "type": "mmdet.SingleRoIExtractor",
                "roi_layer": {"type": "RoIAlign", "output_size": roi, "sampling_ratio": 0},
                "out_channels": 128,
                "featmap_strides": [16],
            },
            "shared_head": {"type": "vladapt.CLIPLastStage", "backbone": spec},
            "bbox_head": {"type": "vladapt.RegionCLIPBBoxHead", "backbone": spec, "classes": classes, **(head or {})},
        },
        "train_cfg": {
            "rpn": {**train, "sampler": {**sampler, "add_gt_as_proposals": False}},
            "rpn_proposal": proposal,
            "rcnn": {
                "assigner": {**assigner, "match_low_quality": False},
                "sampler": {**sampler, "add_gt_as_proposals": True},
                "pos_weight": -1,
            },
        },
        "test_cfg": {"rpn": proposal, "rcnn": {"score_thr": 0.0, "nms": nms, "max_per_img": 20}},
    }
    return ConfigDict(config)


def test_a_faster_rcnn_on_clips_resnet_trains_and_names_new_classes(region_towers, trained, packed):
    runner = trained(faster_rcnn(region_towers["resnet"]), steps=3, lr=1e-3)
    model = runner.model.eval()
    with torch.no_grad():
        found = model.test_step(packed(1000, 2))[0].pred_instances
    assert 0 < len(found.scores) <= 20
    assert found.labels.max() < 3
    head = model.roi_head.bbox_head
    assert head.fc_reg.out_features == 4
    torch.testing.assert_close(head.fc_cls.rows()[-1], torch.zeros(24))
    set_classes(model, "a, b, c, d, e, f, g")
    with torch.no_grad():
        assert model.test_step(packed(1000, 2))[0].pred_instances.labels.max() < 7
    assert head.num_classes == 7
    again = MODELS.build(faster_rcnn(region_towers["resnet"]))
    load_checkpoint(again, f"{runner.work_dir}/iter_3.pth", map_location="cpu", strict=True)


@torch.no_grad()
def test_a_region_of_the_detector_is_a_region_of_the_pretraining(region_towers):
    """Same backbone, same crops: the RoI head's features are those that RegionCLIP learned."""
    model = MODELS.build(faster_rcnn(region_towers["resnet"])).eval()
    backbone = load_backbone(region_towers["resnet"], device="cpu")
    pixels = torch.randn(1, 3, 64, 64)
    boxes = torch.tensor([[0.0, 0.0, 32.0, 40.0], [16.0, 8.0, 64.0, 64.0]])
    rois = F.pad(boxes, (1, 0))
    scores = model.roi_head._bbox_forward(model.extract_feat(pixels), rois)["cls_score"]
    features = region_features(backbone, pixels, [boxes])[0]
    expected = F.pad(features @ model.roi_head.bbox_head.fc_cls.rows()[:-1].T / 0.01, (0, 1))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_objectness_and_refinement_are_options(region_towers, packed):
    torch.manual_seed(0)
    models = {
        name: MODELS.build(faster_rcnn(region_towers["resnet"], head=head)).eval()
        for name, head in {
            "plain": {},
            "objectness": {"multiply_objectness": True},
            "fixed": {"refine": False},
            "warm": {"temperature": 1.0},
        }.items()
    }
    state = models["plain"].state_dict()
    state["roi_head.bbox_head.fc_reg.bias"] += 1.0
    for model in models.values():
        model.load_state_dict(state)
        model.test_cfg.rcnn.score_thr = -1.0
        model.roi_head.test_cfg.score_thr = -1.0
    batch = packed(0, 1)
    sample = batch["data_samples"][0]
    sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes[:1], scores=torch.tensor([0.25]))
    found = {name: model.test_step(copy.deepcopy(batch))[0].pred_instances for name, model in models.items()}
    torch.testing.assert_close(found["objectness"].scores, (found["plain"].scores * 0.25).sqrt())
    torch.testing.assert_close(found["objectness"].bboxes, found["plain"].bboxes)
    torch.testing.assert_close(found["fixed"].bboxes, sample.proposals.bboxes.expand(3, -1))
    assert not torch.allclose(found["plain"].bboxes, found["fixed"].bboxes)
    assert not torch.allclose(found["plain"].scores, found["warm"].scores)


def test_masks_come_from_the_map_before_the_pool(region_towers, packed):
    """A Mask R-CNN's mask head is given (R, 2C, s, s), not the pooled features."""
    model = MODELS.build(faster_rcnn(region_towers["resnet"]))
    results = model.roi_head._bbox_forward(
        model.extract_feat(torch.randn(1, 3, 64, 64)), torch.tensor([[0.0, 0, 0, 32, 32]])
    )
    assert results["bbox_feats"].shape == (1, 256, 1, 1)


def test_towers_and_sizes_that_do_not_fit_are_said(region_towers):
    with pytest.raises(CapabilityError, match="ResNet of CLIP"):
        MODELS.build({"type": "vladapt.CLIPC4Backbone", "backbone": region_towers["vit"]})
    with pytest.raises(CapabilityError, match="ResNet of CLIP"):
        MODELS.build({"type": "vladapt.CLIPLastStage", "backbone": region_towers["vit"]})
    model = MODELS.build(faster_rcnn(region_towers["resnet"], roi=6))
    with pytest.raises(ConfigError, match="output_size=2"):
        model.roi_head._bbox_forward(model.extract_feat(torch.randn(1, 3, 64, 64)), torch.tensor([[0.0, 0, 0, 32, 32]]))


def test_the_last_stage_may_be_frozen_and_the_map_needs_none_of_it(region_towers):
    stage = MODELS.build({"type": "vladapt.CLIPLastStage", "backbone": region_towers["resnet"], "frozen": True})
    assert not any(parameter.requires_grad for parameter in stage.parameters())
    assert stage.side == 1
    backbone = MODELS.build({"type": "vladapt.CLIPC4Backbone", "backbone": region_towers["resnet"]})
    trained = {name.split(".")[2] for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3"}
    assert backbone.out_channels == (128,)
    assert backbone.strides == (16,)
