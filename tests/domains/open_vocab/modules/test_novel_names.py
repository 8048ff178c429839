"""Mask2Former and YOLO-World find things by names that they were never trained on, far more often than chance.

Pictures show a square of one of 26 colours; a colour's text is where its red, green and blue say. Models are tiny, and
train for seconds.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.domains.open_vocab.text_embeddings import set_classes

SIDE = 64
DIM = 24
LEVELS = (0.0, 0.5, 1.0)
COLOURS = {
    f"{r}{g}{b}": (LEVELS[r], LEVELS[g], LEVELS[b])
    for r, g, b in itertools.product(range(3), repeat=3)
    if (r, g, b) != (1, 1, 1)
}
NOVEL = ("200", "022", "212", "010", "121", "202")
BASE = tuple(name for name in COLOURS if name not in NOVEL)


class ColourMaps(nn.Module):
    """A backbone that sees colours from the start: the means of cells, in 16 random mixtures."""

    def __init__(self, strides: tuple[int, ...], channels: int = 16):
        super().__init__()
        self.strides = strides
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(channels, 3, 1, 1, generator=generator))
        self.register_buffer("bias", torch.randn(channels, generator=generator))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(F.conv2d(F.avg_pool2d(pixels, side), self.weight, self.bias).relu() for side in self.strides)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    MODELS.register_module(module=ColourMaps)
    yield
    MODELS.module_dict.pop("ColourMaps")


def texts(names) -> torch.Tensor:
    colours = torch.tensor([COLOURS[name] for name in names]) - 0.5
    return F.normalize(F.pad(colours, (0, DIM - 3)), dim=-1)


def scene(seed: int, names, outlined: bool, count: int = 4) -> dict:
    """Pictures with one square each, 20 to 36 pixels wide, on grey ground, with boxes or boxes and masks."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for _ in range(count):
        label = int(torch.randint(len(names), (), generator=generator))
        side = int(torch.randint(20, 37, (), generator=generator))
        left, top = torch.randint(SIDE - side, (2,), generator=generator).tolist()
        picture, mask = torch.full((3, SIDE, SIDE), 110.0), np.zeros((1, SIDE, SIDE), np.uint8)
        picture[:, top : top + side, left : left + side] = 220 * torch.tensor(COLOURS[names[label]])[:, None, None]
        mask[0, top : top + side, left : left + side] = 1
        inputs.append((picture + torch.randn(picture.shape, generator=generator)).clamp(0, 255).to(torch.uint8))
        size = (SIDE, SIDE)
        meta = {"img_shape": size, "ori_shape": size, "batch_input_shape": size, "scale_factor": (1.0, 1.0)}
        truth = {
            "labels": torch.tensor([label]),
            "bboxes": torch.tensor([[left, top, left + side, top + side]]).float(),
            **({"masks": BitmapMasks(mask, *size)} if outlined else {}),
        }
        samples.append(DetDataSample(metainfo=meta, gt_instances=InstanceData(**truth)))
    return {"inputs": inputs, "data_samples": samples}


def learned(config: dict, text_part: str, rate: float, steps: int, outlined: bool) -> nn.Module:
    """The model after so many steps on base names."""
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(config))
    model.init_weights()
    text = model.get_submodule(text_part)
    text.embeddings = texts(BASE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        optimizer.zero_grad()
        data = model.data_preprocessor(scene(step, BASE, outlined), training=True)
        found = model.train()(**data, mode="loss")
        sum(sum(value) if isinstance(value, list) else value for value in found.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def ask(model: nn.Module, text_part: str, names: list[str]) -> None:
    """Other names, and their texts."""
    set_classes(model, names)
    model.get_submodule(text_part).embeddings = texts(names)


@torch.no_grad()
def share_right(model: nn.Module, names, asked: list[str], right, outlined: bool) -> float:
    """Over 16 pictures of some names that were not trained on: how far what was found is `right`."""
    told = []
    for seed in range(100, 104):
        data = scene(seed, names, outlined)
        found = model(**model.data_preprocessor(data, training=False), mode="predict")
        for sample, true in zip(found, data["data_samples"], strict=True):
            told.append(right(sample, true.gt_instances, asked.index(names[int(true.gt_instances.labels)])))
    return float(np.mean(told))


def pixels_right(sample, truth, label: int) -> float:
    """Share of a thing's pixels that have its name in the panoptic map."""
    segments = sample.pred_panoptic_seg.sem_seg[0] % INSTANCE_OFFSET
    return (segments[torch.from_numpy(truth.masks.masks[0]).bool()] == label).float().mean().item()


def surest_right(sample, truth, label: int) -> float:
    """1.0 where the surest box of the picture has its thing's name."""
    return float(sample.pred_instances.labels[sample.pred_instances.scores.argmax()] == label)


def mask2former(spec: str) -> dict:
    attention = {"embed_dims": 16, "num_heads": 2, "dropout": 0.0, "batch_first": True}
    ffn = {"embed_dims": 16, "feedforward_channels": 16, "num_fcs": 2, "ffn_drop": 0.0, "act_cfg": {"type": "ReLU"}}
    position = {"num_feats": 8, "normalize": True}
    encoder = {"self_attn_cfg": {**attention, "num_levels": 3, "num_points": 2}, "ffn_cfg": ffn}
    decoder = {"self_attn_cfg": attention, "cross_attn_cfg": attention, "ffn_cfg": ffn}
    return {
        "type": "vladapt.TextMask2Former",
        "data_preprocessor": {
            "type": "mmdet.DetDataPreprocessor",
            "mean": [127.0] * 3,
            "std": [64.0] * 3,
            "pad_size_divisor": 32,
            "pad_mask": True,
        },
        "backbone": {"type": "mmdet.ColourMaps", "strides": (4, 8, 16, 32)},
        "panoptic_head": {
            "type": "vladapt.TextMask2FormerHead",
            "classifier": {"backbone": spec, "classes": list(BASE)},
            "named_by": "pixels",
            "class_layers": 0,
            "in_channels": [16] * 4,
            "strides": [4, 8, 16, 32],
            "feat_channels": 16,
            "out_channels": 16,
            "num_queries": 6,
            "num_transformer_feat_level": 3,
            "pixel_decoder": {
                "type": "mmdet.MSDeformAttnPixelDecoder",
                "num_outs": 3,
                "norm_cfg": {"type": "GN", "num_groups": 2},
                "encoder": {"num_layers": 1, "layer_cfg": encoder},
                "positional_encoding": position,
            },
            "positional_encoding": position,
            "transformer_decoder": {"return_intermediate": True, "num_layers": 2, "layer_cfg": decoder},
            "loss_cls": {"type": "mmdet.CrossEntropyLoss", "loss_weight": 2.0},
            "loss_mask": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 5.0},
            "loss_dice": {"type": "mmdet.DiceLoss", "naive_dice": True, "eps": 1.0, "loss_weight": 5.0},
        },
        "panoptic_fusion_head": {"type": "mmdet.MaskFormerFusionHead"},
        "train_cfg": {
            "num_points": 64,
            "oversample_ratio": 3.0,
            "importance_sample_ratio": 0.75,
            "assigner": {
                "type": "mmdet.HungarianAssigner",
                "match_costs": [
                    {"type": "mmdet.ClassificationCost", "weight": 2.0},
                    {"type": "mmdet.CrossEntropyLossCost", "weight": 5.0, "use_sigmoid": True},
                    {"type": "mmdet.DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
                ],
            },
            "sampler": {"type": "mmdet.MaskPseudoSampler"},
        },
        "test_cfg": {
            "panoptic_on": True,
            "instance_on": False,
            "max_per_image": 10,
            "object_mask_thr": 0.0,
            "iou_thr": 0.5,
            "filter_low_score": True,
        },
    }


def yolo_world(spec: str) -> dict:
    norm = {"type": "BN", "momentum": 0.1}
    return {
        "type": "vladapt.YOLOWorld",
        "data_preprocessor": {
            "type": "mmdet.DetDataPreprocessor",
            "mean": [127.0] * 3,
            "std": [64.0] * 3,
            "pad_size_divisor": 32,
        },
        "texts": {"backbone": spec, "classes": list(BASE)},
        "backbone": {"type": "mmdet.ColourMaps", "strides": (8, 16, 32)},
        "neck": {
            "type": "vladapt.RepVLPAN",
            "in_channels": [16] * 3,
            "out_channels": 16,
            "num_csp_blocks": 1,
            "image_pooling": False,
            "norm_cfg": norm,
        },
        "bbox_head": {
            "type": "vladapt.YOLOWorldHead",
            "norm": "l2",
            "in_channels": 16,
            "feat_channels": 16,
            "stacked_convs": 1,
            "exp_on_reg": True,
            "anchor_generator": {"type": "mmdet.MlvlPointGenerator", "offset": 0, "strides": [8, 16, 32]},
            "bbox_coder": {"type": "mmdet.DistancePointBBoxCoder"},
            "loss_cls": {"type": "vladapt.RegionTextContrastiveLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "mmdet.GIoULoss", "loss_weight": 2.0},
            "norm_cfg": norm,
        },
        "train_cfg": {
            "assigner": {"type": "mmdet.DynamicSoftLabelAssigner", "topk": 5},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {
            "nms_pre": 200,
            "min_bbox_size": 0,
            "score_thr": 0.0,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 30,
        },
    }


@pytest.mark.thorough(but=("yolo",))
@pytest.mark.parametrize(
    ("config", "text_part", "right", "rate", "steps", "outlined"),
    [
        pytest.param(mask2former, "panoptic_head.classifier.text", pixels_right, 1e-2, 90, True, id="mask2former"),
        pytest.param(yolo_world, "texts", surest_right, 8e-3, 150, False, id="yolo-world"),
    ],
)
def test_names_that_were_never_trained_are_right_far_more_often_than_chance(
    small_clip_spec, config, text_part, right, rate, steps, outlined
):
    model = learned(config(small_clip_spec), text_part, rate, steps, outlined)
    ask(model, text_part, [*BASE, *NOVEL])
    base, novel = (share_right(model, some, [*BASE, *NOVEL], right, outlined) for some in (BASE, NOVEL))
    ask(model, text_part, list(NOVEL))
    alone = share_right(model, NOVEL, list(NOVEL), right, outlined)
    assert min(base, novel) > 4 / len(COLOURS)
    assert alone > 2 / len(NOVEL)
