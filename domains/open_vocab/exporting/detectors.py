"""Detectors of mmdet that have one stage as a graph: scores and boxes of every anchor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmdet.models.dense_heads import ATSSHead, FCOSHead, RetinaHead, RTMDetHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from torch import Tensor, nn

from ....core.errors import CapabilityError
from ....core.export import Graph, boxes
from ..inference.detection import believed_from, rivals
from ..inference.predictions import PredictedBoxes
from ..modules.detectors.denseclip import DenseCLIPDetector
from .run import Form

CENTRED = (FCOSHead, ATSSHead)
HEADS = (RetinaHead, RTMDetHead, *CENTRED)
SAME_PLACE, SAME_SCORE = 0.5, 1e-3
"""Up to which a side's place, in pixels, and the score of one box may differ from those of the same box."""


class Levels(nn.Module):
    """Pixels (B, 3, H, W) -> scores (B, N, C) and boxes (B, N, 4) of each level, in pixels, before any is suppressed;
    of heads that say how near the middle of its thing a place is, (B, N) factors too.

    Args:
        model: gives the maps.
        head: of a detector with one stage.
    """

    def __init__(self, model: nn.Module, head: BaseDenseHead):
        super().__init__()
        self.model, self.head = model, head

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        logits, deltas, *centred = self.head(self.model.extract_feat(pixels))
        sizes = [each.shape[-2:] for each in logits]
        priors = self.head.prior_generator.grid_priors(sizes, dtype=pixels.dtype, device=pixels.device)
        levels = [self._level(*level) for level in zip(priors, logits, deltas, *centred, strict=True)]
        return tuple(each for level in levels for each in level)

    def _level(self, priors: Tensor, logits: Tensor, deltas: Tensor, *centred: Tensor) -> tuple[Tensor, ...]:
        head, images = self.head, logits.shape[0]
        logits = logits.permute(0, 2, 3, 1).reshape(images, -1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(dim=-1)[..., :-1]
        deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
        found = head.bbox_coder.decode(priors.repeat(images, 1), deltas)
        factors = (each.permute(0, 2, 3, 1).reshape(images, -1).sigmoid() for each in centred)
        return scores, found.view(images, -1, 4), *factors


class BoxForm(Form):
    """Boxes with names."""

    script = "boxes.py"
    values = "output"
    answers = "boxes"

    @property
    def detector(self) -> nn.Module:
        """What finds boxes in the model's maps: itself, or the detector that it is built around."""
        return self.model.detector if isinstance(self.model, DenseCLIPDetector) else self.model

    def check(self) -> None:
        name, head = type(self.model).__name__, getattr(self.detector, "bbox_head", None)
        if getattr(self.model, "takes_prompts", False):
            raise CapabilityError(
                "a SAM answers what it is shown, which is not a fixed graph; predict or serve with it"
            )
        if isinstance(self.detector, TwoStageDetector):
            raise CapabilityError(
                f"{name} has a second stage over regions that it chooses, which is not a fixed graph; fit with "
                "--recipe open-vocab/retinanet, or predict with the run"
            )
        usual = isinstance(self.detector, SingleStageDetector) and isinstance(head, HEADS)
        if not usual or not _decodes_as_usual(head):
            named = name if head is None else f"{name} with {type(head).__name__}"
            raise CapabilityError(
                f"{named} finds boxes in its own way, which is not a fixed graph (only heads of RetinaNet, RTMDet, "
                "FCOS and ATSS are exported); fit with --recipe open-vocab/retinanet, or predict with the run"
            )
        _ = self.facts

    def graph(self, pixels: Tensor) -> Graph:
        head = self.detector.bbox_head
        levels = range(head.prior_generator.num_levels)
        kinds = ("scores", "boxes", "factors") if isinstance(head, CENTRED) else ("scores", "boxes")
        names = [f"{name}_{level}" for level in levels for name in kinds]
        return Graph(Levels(self.model, head), {"pixels": pixels}, names, {"pixels": (2, 3)})

    @property
    def facts(self) -> dict[str, Any]:
        apart = rivals(self.model)
        alone = apart.sum(axis=1) == len(apart) - 1
        rule = {**_rule(self.detector.test_cfg), "learned_together": (~alone).tolist()}
        return {"boxes": rule, "score": believed_from(self.model)}

    def answer(self, outputs, size, whole, facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return boxes.boxes_of(outputs, size, whole, facts["boxes"])

    def same(self, sample: Any, answer) -> tuple[float, float]:
        """Boxes of either that have one of the other of their name, in its place and with its score."""
        model = PredictedBoxes.of(sample).without_rivals(rivals(self.model))
        found, scores, labels = answer
        near = np.abs(model.boxes[:, None] - found[None]).max(axis=2, initial=0) <= SAME_PLACE
        near &= np.abs(model.scores[:, None] - scores[None]) <= SAME_SCORE
        near &= model.labels[:, None] == labels[None]
        return float(near.any(axis=0).sum() + near.any(axis=1).sum()), float(sum(near.shape))


def _decodes_as_usual(head: BaseDenseHead) -> bool:
    """Whether a head makes boxes of its outputs as its base class does."""
    steps = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    return all(getattr(type(head), step) is getattr(BaseDenseHead, step) for step in steps)


def _rule(config: Mapping[str, Any]) -> dict[str, Any]:
    """What predict.py keeps of scores and boxes, as a config says it of tests.

    Raises:
        CapabilityError: another way of suppressing boxes than `nms`.
    """
    nms = dict(config["nms"])
    if nms.pop("type", "nms") != "nms" or set(nms) - {"iou_threshold", "split_thr", "max_num"}:
        raise CapabilityError(
            f"its config suppresses boxes by {config['nms'].get('type', 'nms')} with options that predict.py does not "
            "know; fit with nms=dict(type='nms', iou_threshold=...), or predict with the run"
        )
    before = int(config.get("nms_pre", -1))
    return {
        "score_thr": float(config.get("score_thr", 0)),
        "nms_pre": before if before > 0 else None,
        "min_bbox_size": float(config.get("min_bbox_size", -1)),
        "iou_threshold": float(nms["iou_threshold"]),
        "max_per_img": int(config["max_per_img"]),
    }
