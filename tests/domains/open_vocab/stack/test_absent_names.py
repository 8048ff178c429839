"""Modules of mm packages whose packages lack what they ask for."""

import importlib
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.models.layers.transformer import DeformableDetrTransformerEncoder, DetrTransformerEncoder
from torch import nn

from vladapt.domains.open_vocab.stack.absent_names import recomputed

LAYER = {"self_attn_cfg": {"embed_dims": 16, "num_heads": 2}, "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 8}}


def encoder(num_cp, kind=DetrTransformerEncoder):
    torch.manual_seed(0)
    made = kind(num_layers=3, layer_cfg=LAYER, num_cp=num_cp)
    return made.eval()  # without dropout; layers are recomputed wherever gradients are wanted


def test_recomputed_layers_give_the_same_and_hold_less():
    x = torch.randn(2, 30, 16, generator=torch.Generator().manual_seed(1))
    plain, recomputing = (outcome(encoder(num_cp), x) for num_cp in (0, 3))
    for one, other in zip(plain[0], recomputing[0], strict=True):
        torch.testing.assert_close(one, other)
    assert recomputing[1] < plain[1] / 5
    assert list(encoder(0).state_dict()) == list(encoder(3).state_dict())


def outcome(model, x):
    """Output and gradients, and how many numbers were held for the backward pass."""
    sizes, leaf = [], x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        out = model(leaf, torch.zeros_like(x), None)
    out.square().sum().backward()
    return [out.detach(), leaf.grad, *(p.grad for p in model.parameters())], sum(sizes)


def test_the_deformable_encoder_is_built_with_recomputed_layers():
    layers = encoder(2, DeformableDetrTransformerEncoder).layers
    assert [type(layer).forward is type(layers[2]).forward for layer in layers] == [False, False, True]


def test_a_copy_recomputes_itself():
    """An averaged model is one."""
    layer = recomputed(nn.Linear(2, 2))
    copy = deepcopy(layer)
    nn.init.zeros_(copy.weight), nn.init.zeros_(copy.bias)
    x = torch.ones(1, 2, requires_grad=True)
    assert copy(x).tolist() == [[0, 0]] and layer(x).abs().sum() > 0
    assert type(layer).__name__ == "Linear" and isinstance(layer, nn.Linear)


def test_the_metric_of_youtube_vis_counts():
    """One track of one video, found in full and found in no frame."""
    from mmdet.evaluation.functional.ytvis import YTVIS
    from mmdet.evaluation.functional.ytviseval import YTVISeval
    from pycocotools import mask

    def masks(filled):
        square = torch.zeros(8, 8, dtype=torch.uint8)
        square[:4, :4] = filled
        return mask.encode(square.numpy().copy(order="F"))

    def average_precision(found):
        truth, tracks = YTVIS(), YTVIS()
        video = {"id": 1, "width": 8, "height": 8, "length": 2}
        track = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "areas": [16, 16], "avg_area": 16}
        categories = [{"id": 1, "name": "cat"}]
        for each, extra in (
            (truth, {"segmentations": [masks(1)] * 2}),
            (tracks, {"segmentations": found, "score": 1.0}),
        ):
            each.dataset = {"videos": [video], "categories": categories, "annotations": [{**track, **extra}]}
            each.createIndex()
        scored = YTVISeval(truth, tracks, "segm")
        scored.evaluate(), scored.accumulate(), scored.summarize()
        return scored.stats[0]

    assert average_precision([masks(1)] * 2) == pytest.approx(1.0)
    assert average_precision([masks(0)] * 2) == 0


def test_cascade_rpn_is_built_from_its_own_config():
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from vladapt.domains.open_vocab.stack.packaged_configs import packaged_config

    config = Config.fromfile(packaged_config("mmdet::cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py")).model
    assert "num_classes" not in config.rpn_head and "sampling" in config.rpn_head.stages[0]
    head = MODELS.build({**config.rpn_head, "train_cfg": config.train_cfg.rpn, "test_cfg": config.test_cfg.rpn})
    assert [(stage.num_classes, type(stage.sampler).__name__) for stage in head.stages] == [
        (1, "PseudoSampler"),
        (1, "RandomSampler"),
    ]


def test_the_head_of_an_ssd_predicts():
    from mmdet.models.dense_heads import SSDHead
    from mmengine.config import ConfigDict

    anchors = {"strides": [32], "min_sizes": [30], "max_sizes": [60], "ratios": [[2]], "scale_major": False}
    nms = ConfigDict(nms_pre=5, score_thr=0.0, nms={"type": "nms", "iou_threshold": 0.5}, max_per_img=3)
    head = SSDHead(
        num_classes=2, in_channels=[4], anchor_generator={"type": "SSDAnchorGenerator", **anchors}, test_cfg=nms
    )
    features = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    about = {"img_shape": (64, 64), "scale_factor": (1.0, 1.0)}
    found = head.predict_by_feat(*head((features,)), batch_img_metas=[about])[0]
    assert 0 < len(found.bboxes) == len(found.labels) <= 3


@pytest.mark.parametrize(("number", "multimodal"), [("5.0.0", False), ("5.24.0", False), ("4.57.1", True)])
def test_mmpretrain_leaves_out_what_wants_another_transformers(monkeypatch, tmp_path, number, multimodal):
    package = tmp_path / "mmpretrain" / "utils"
    package.mkdir(parents=True)
    (package / "dependency.py").write_text("WITH_MULTIMODAL = True\n")
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "mmpretrain"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("vladapt.domains.open_vocab.stack.absent_names.version", lambda name: number)
    module = importlib.import_module("mmpretrain.utils.dependency")
    for name in ("mmpretrain", "mmpretrain.utils", "mmpretrain.utils.dependency"):
        sys.modules.pop(name)
    assert Path(module.__file__).is_relative_to(tmp_path) and module.WITH_MULTIMODAL is multimodal
