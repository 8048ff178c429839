"""DenseCLIP around mmdet's detectors."""

import copy

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

SIDE = 64
DECODER = {"width": 16, "heads": 2, "layers": 1, "dropout": 0.0}
CODER = {"type": "mmdet.DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4}
ASSIGNER = {"type": "mmdet.MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.3}
SAMPLER = {"type": "mmdet.RandomSampler", "num": 8, "pos_fraction": 0.5, "add_gt_as_proposals": True}
NMS = {"type": "nms", "iou_threshold": 0.5}


def retinanet(**head):
    return {
        "type": "mmdet.RetinaNet",
        "neck": {
            "type": "mmdet.FPN",
            "out_channels": 8,
            "start_level": 1,
            "add_extra_convs": "on_input",
            "num_outs": 5,
        },
        "bbox_head": {
            "type": "mmdet.RetinaHead",
            "in_channels": 8,
            "feat_channels": 8,
            "stacked_convs": 1,
            "anchor_generator": {
                "type": "mmdet.AnchorGenerator",
                "octave_base_scale": 4,
                "scales_per_octave": 1,
                "ratios": [1.0],
                "strides": [8, 16, 32, 64, 128],
            },
            "bbox_coder": CODER,
            "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "mmdet.L1Loss", "loss_weight": 1.0},
            **head,
        },
        "train_cfg": {"assigner": ASSIGNER, "allowed_border": -1, "pos_weight": -1},
        "test_cfg": {"nms_pre": 100, "min_bbox_size": 0, "score_thr": 0.0, "nms": NMS, "max_per_img": 10},
    }


def mask_rcnn():
    rpn = {
        "type": "mmdet.RPNHead",
        "in_channels": 8,
        "feat_channels": 8,
        "anchor_generator": {
            "type": "mmdet.AnchorGenerator",
            "scales": [4],
            "ratios": [1.0, 2.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": CODER,
        "loss_cls": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "mmdet.L1Loss"},
    }

    def extractor(side):
        layer = {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0}
        return {
            "type": "mmdet.SingleRoIExtractor",
            "roi_layer": layer,
            "out_channels": 8,
            "featmap_strides": [4, 8, 16, 32],
        }

    box = {
        "type": "mmdet.Shared2FCBBoxHead",
        "in_channels": 8,
        "fc_out_channels": 16,
        "roi_feat_size": 3,
        "bbox_coder": CODER,
        "loss_cls": {"type": "mmdet.CrossEntropyLoss"},
        "loss_bbox": {"type": "mmdet.L1Loss"},
    }
    mask = {
        "type": "mmdet.FCNMaskHead",
        "num_convs": 1,
        "in_channels": 8,
        "conv_out_channels": 8,
        "loss_mask": {"type": "mmdet.CrossEntropyLoss", "use_mask": True},
    }
    proposals = {"nms_pre": 20, "max_per_img": 10, "nms": NMS, "min_bbox_size": 0}
    return {
        "type": "mmdet.MaskRCNN",
        "neck": {"type": "mmdet.FPN", "out_channels": 8, "num_outs": 5},
        "rpn_head": rpn,
        "roi_head": {
            "type": "mmdet.StandardRoIHead",
            "bbox_roi_extractor": extractor(3),
            "bbox_head": box,
            "mask_roi_extractor": extractor(6),
            "mask_head": mask,
        },
        "train_cfg": {
            "rpn": {"assigner": ASSIGNER, "sampler": SAMPLER, "allowed_border": -1, "pos_weight": -1},
            "rpn_proposal": proposals,
            "rcnn": {"assigner": ASSIGNER, "sampler": SAMPLER, "mask_size": 12, "pos_weight": -1},
        },
        "test_cfg": {
            "rpn": proposals,
            "rcnn": {"score_thr": 0.0, "nms": NMS, "max_per_img": 5, "mask_thr_binary": 0.5},
        },
    }


def built(spec, detector=None, **options):
    torch.manual_seed(0)
    matching = {"decoder": DECODER, "n_ctx": 4}
    config = {"backbone": spec, "classes": "cat, dog, car", "detector": detector or retinanet(), "matching": matching}
    model = MODELS.build({"type": "vladapt.DenseCLIPDetector", **config, **options})
    model.init_weights()
    return model


def batch():
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    samples = []
    for label in (1, 2):
        meta = {"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE), "pad_shape": (SIDE, SIDE)}
        sample = DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0), "batch_input_shape": (SIDE, SIDE)})
        masks = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
        masks[:, 8:40, 8:40] = 1
        boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
        found = BitmapMasks(masks.numpy(), SIDE, SIDE)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([label]), masks=found)
        samples.append(sample)
    return pixels, samples


@pytest.fixture
def vit(region_towers):
    return region_towers["vit"]


def total(model, losses):
    return model.parse_losses(losses)[0]


@pytest.mark.parametrize(("tower", "index"), [("vit", 1), ("resnet", 3)])
def test_retinanet_trains_and_predicts(region_towers, tower, index):
    model, (pixels, samples) = built(region_towers[tower]), batch()
    assert model.score_concat_index == index
    losses = model(pixels, samples, mode="loss")
    assert {"loss_cls", "loss_bbox", "loss_scores"} == set(losses)
    total(model, losses).backward()
    assert model.matching.contexts.grad.abs().max() > 0 and next(model.backbone.part.parameters()) is not None
    with torch.no_grad():
        found = model.eval()(pixels, samples, mode="predict")[0].pred_instances
        assert len(model(pixels, mode="tensor")) == 2
    assert found.bboxes.shape[1] == 4 and set(found.labels.tolist()) <= {0, 1, 2}


def test_mask_rcnn_trains_and_predicts(vit):
    model, (pixels, samples) = built(vit, mask_rcnn()), batch()
    heads = model.detector.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 3
    losses = model(pixels, samples, mode="loss")
    assert {"loss_rpn_cls", "loss_mask", "loss_scores"} <= set(losses)
    total(model, losses).backward()
    with torch.no_grad():
        found = model.eval()(pixels, samples, mode="predict")[0].pred_instances
    assert found.masks.shape[1:] == (SIDE, SIDE)


def test_the_score_loss_is_that_of_scores_over_tau_at_the_finest_map(vit):
    model, (pixels, samples) = built(vit).eval(), batch()
    *maps, (pooled, places) = model.backbone(pixels)
    scores = model.matching(pooled, places)[1] / 0.07
    fine = torch.nn.functional.interpolate(scores, size=maps[0].shape[2:], mode="bilinear")
    truth = torch.zeros_like(fine)
    for image, sample in enumerate(samples):
        truth[image, int(sample.gt_instances.labels), 2:10, 2:10] = 1  # 8 to 40 pixels, 4 to a place
    expected = torch.nn.functional.binary_cross_entropy_with_logits(fine, truth)
    torch.testing.assert_close(model.loss(pixels, samples)["loss_scores"], expected)


def test_options_of_the_scores_change_the_losses(vit):
    pixels, samples = batch()
    plain = built(vit).eval().loss(pixels, copy.deepcopy(samples))
    cooler = built(vit, tau=0.5).eval().loss(pixels, copy.deepcopy(samples))
    assert not torch.isclose(cooler["loss_scores"], plain["loss_scores"])
    inside = built(vit, score_loss={"type": "vladapt.BoxScoreLoss", "region": "boxes"}).eval()
    assert not torch.isclose(inside.loss(pixels, copy.deepcopy(samples))["loss_scores"], plain["loss_scores"])
    assert "loss_scores" not in built(vit, score_loss=None).loss(pixels, copy.deepcopy(samples))
    widths = {}
    for name, options in {"concat": {}, "other": {"score_concat_index": 2}, "bare": {"concat_scores": False}}.items():
        neck = built(vit, **options).detector.neck
        widths[name] = [lateral.conv.in_channels for lateral in neck.lateral_convs]
    assert widths == {"concat": [51, 48, 48], "other": [48, 51, 48], "bare": [48, 48, 48]}


def test_it_learns(vit):
    model, (pixels, samples) = built(vit), batch()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = total(model, model(pixels, samples, mode="loss"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_configs_that_name_other_classes_say_so(vit):
    with pytest.raises(ConfigError, match=r"bbox_head\.num_classes=80, but 3 classes are named"):
        built(vit, retinanet(num_classes=80))
    with pytest.raises(ConfigError, match=r"neck.in_channels=\[1, 2, 3, 4\] does not fit"):
        detector = retinanet()
        built(vit, {**detector, "neck": {**detector["neck"], "in_channels": [1, 2, 3, 4]}})


def test_as_many_other_names_are_taken(vit):
    model, (pixels, _) = built(vit).eval(), batch()
    with torch.no_grad():
        before = model._maps(pixels)[1]
        set_classes(model, "bus, tree, sky")
        assert not torch.allclose(model._maps(pixels)[1], before)
    with pytest.raises(CapabilityError, match="DenseCLIPDetector was built for 3 classes and cannot take 4"):
        set_classes(model, "bus, tree, sky, road")


def test_any_names_go_with_a_head_that_reads_text(vit):
    head = {"type": "vladapt.TextRetinaHead", "classifier": {"backbone": vit, "classes": "cat, dog, car"}}
    model, (pixels, samples) = built(vit, retinanet(**head), concat_scores=False).eval(), batch()
    set_classes(model, "bus, tree, sky, road, river")
    with torch.no_grad():
        found = model(pixels, samples, mode="predict")[0].pred_instances
    assert len(found) and int(found.labels.max()) <= 4
