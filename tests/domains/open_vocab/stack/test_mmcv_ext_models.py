"""Packaged mmdet and mmseg configs that lean on the operators: loss, gradients and prediction, from no weights."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import mmdet.models
import mmseg.models
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from vladapt.domains.open_vocab.stack.mmcv_ext import OPERATORS

HEIGHT, WIDTH = 64, 96
NARROW_RESNET = {
    "backbone.base_channels": 16,
    "backbone.init_cfg": None,
    "backbone.norm_cfg": {"type": "BN"},
    "backbone.frozen_stages": -1,
}
SMALL_NECK = {"neck.in_channels": [64, 128, 256, 512]}


@pytest.fixture
def called(monkeypatch):
    """Names of the operators that ran, forwards or backwards."""
    names = set()

    def noted(name, function):
        def run(*args, **kwargs):
            names.add(name)
            return function(*args, **kwargs)

        return run

    for name in OPERATORS:
        monkeypatch.setattr(sys.modules["mmcv._ext"], name, noted(name, getattr(sys.modules["mmcv._ext"], name)))
    return names


def build(package, path, changes):
    cfg = Config.fromfile(Path(package.__file__).parent / ".mim" / "configs" / path)
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(package.__name__):
        return package.registry.MODELS.build(cfg.model)


def trained_and_tested(model, sample):
    """The losses of two images and all gradients are finite; what is found in the first image."""
    with DefaultScope.overwrite_default_scope(type(model).__module__.partition(".")[0]):
        pictures = torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)).byte()
        batch = {"inputs": list(pictures), "data_samples": [sample.clone() for _ in pictures]}
        losses = model.train()(**model.data_preprocessor(batch, True), mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        assert total.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        first = {name: values[:1] for name, values in batch.items()}
        with torch.no_grad():
            return model.eval()(**model.data_preprocessor(first, False), mode="predict")[0]


def boxed():
    sample = DetDataSample(metainfo=dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (HEIGHT, WIDTH)))
    sample.set_metainfo({"scale_factor": (1.0, 1.0)})
    boxes = torch.tensor([[4.0, 6, 40, 50], [30, 10, 90, 60]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.tensor([], dtype=torch.int64))
    return sample


DETECTORS = {
    "dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py": (
        {
            **NARROW_RESNET,
            "neck.0.in_channels": [64, 128, 256, 512],
            "neck.0.out_channels": 32,
            "neck.1.in_channels": 32,
            "neck.1.out_channels": 32,
            "neck.1.num_blocks": 2,
            "bbox_head.in_channels": 32,
            "bbox_head.feat_channels": 32,
        },
        {"modulated_deform_conv_forward", "modulated_deform_conv_backward", "nms"},
    ),
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py": (
        {
            **NARROW_RESNET,
            **SMALL_NECK,
            "neck.type": "FPN_CARAFE",
            "neck.out_channels": 32,
            "rpn_head.in_channels": 32,
            "rpn_head.feat_channels": 32,
            "roi_head.bbox_roi_extractor.out_channels": 32,
            "roi_head.bbox_head.in_channels": 32,
            "roi_head.bbox_head.fc_out_channels": 64,
            "rpn_head.anchor_generator.scales": [4],
            "roi_head.bbox_head.num_classes": 3,
            "test_cfg.rcnn.nms": {"type": "soft_nms", "iou_threshold": 0.5},
            "test_cfg.rcnn.score_thr": 0.0,
        },
        {
            "deform_conv_forward",
            "deform_conv_backward_input",
            "deform_conv_backward_parameters",
            "carafe_forward",
            "carafe_backward",
            "roi_align_forward",
            "roi_align_backward",
            "nms",
            "softnms",
        },
    ),
    "guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py": (
        {**NARROW_RESNET, **SMALL_NECK, "test_cfg.score_thr": 0.0},
        {"masked_im2col_forward", "masked_col2im_forward", "deform_conv_forward", "nms"},
    ),
}


@pytest.mark.parametrize("path", DETECTORS)
def test_a_detector_trains_and_predicts(path, called):
    changes, needed = DETECTORS[path]
    found = trained_and_tested(build(mmdet, path, changes), boxed())
    assert needed <= called
    assert len(found.pred_instances.bboxes) == len(found.pred_instances.scores) > 0


@pytest.mark.thorough
def test_a_detector_trains_and_predicts_under_autocast(called):
    path = "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py"
    changes, needed = DETECTORS[path]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained_and_tested(build(mmdet, path, changes), boxed())
    assert needed <= called


def test_a_segmentor_trains_and_predicts(called):
    changes = {
        **NARROW_RESNET,
        "pretrained": None,
        "decode_head.in_channels": 512,
        "decode_head.channels": 32,
        "decode_head.norm_cfg": {"type": "BN"},
        "decode_head.mask_size": (7, 7),
        "auxiliary_head": None,
        "data_preprocessor.size": (HEIGHT, WIDTH),
    }
    sample = SegDataSample(metainfo=dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (HEIGHT, WIDTH)))
    sample.gt_sem_seg = PixelData(data=torch.arange(HEIGHT * WIDTH).view(1, HEIGHT, WIDTH) % 19)
    model = build(mmseg, "psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py", changes)
    found = trained_and_tested(model, sample)
    assert {"psamask_forward", "psamask_backward"} <= called
    assert found.pred_sem_seg.data.shape == (1, HEIGHT, WIDTH)
