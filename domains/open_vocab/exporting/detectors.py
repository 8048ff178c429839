"""Detectors of mmdet as graphs: scores and boxes of every anchor, and of regions where a second stage looks at some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from mmdet.models.dense_heads import RetinaHead, RPNHead, RTMDetHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torchvision.ops import roi_align

from ....core.errors import CapabilityError
from ....core.export.graph import Graph
from ....core.export.package import SCRIPT
from ..inference.predictions import PredictedBoxes, overlaps
from .run import PIXELS, Form
from .standalone import boxes

SAME_PLACE = 0.9
"""Intersection over union from which on two boxes are the same."""
REGIONS = "regions"
EXAMPLES = ((0, 8, 8, 40, 40), (1, 0, 16, 128, 96), (1, 4, 4, 180, 120))
"""Regions to trace with: the image's number, x0, y0, x1, y1."""


class Levels(nn.Module):
    """Pixels (B, 3, H, W) -> scores (B, N, C) and boxes (B, N, 4) of each level, in pixels, before any is suppressed;
    then, where a second stage reads them, the maps."""

    def __init__(self, model: nn.Module, head: BaseDenseHead, maps: int):
        super().__init__()
        self.model, self.head, self.maps = model, head, maps

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.extract_feat(pixels)
        logits, deltas = self.head(maps)
        sizes = [each.shape[-2:] for each in logits]
        priors = self.head.prior_generator.grid_priors(sizes, dtype=pixels.dtype, device=pixels.device)
        levels = [self._level(*level) for level in zip(logits, deltas, priors, strict=True)]
        return (*(each for level in levels for each in level), *maps[: self.maps])

    def _level(self, logits: Tensor, deltas: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        head, images = self.head, logits.shape[0]
        logits = logits.permute(0, 2, 3, 1).reshape(images, -1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(dim=-1)[..., :-1]
        deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
        found = head.bbox_coder.decode(priors.repeat(images, 1), deltas)
        return scores, found.view(images, -1, 4)


class Regions(nn.Module):
    """Maps of one or more images and regions (R, 5), each with its image's number before it -> scores (R, C) and boxes
    (R, 4)."""

    def __init__(self, roi_head: StandardRoIHead):
        super().__init__()
        self.roi_head = roi_head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *maps, regions = inputs
        extractor, head = self.roi_head.bbox_roi_extractor, self.roi_head.bbox_head
        level = extractor.map_roi_levels(regions, len(maps))[:, None, None, None]
        pooled = torch.zeros(())
        for number, (each, layer) in enumerate(zip(maps, extractor.roi_layers, strict=True)):
            how = (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
            pooled = torch.where(level == number, roi_align(each, regions, *how), pooled)
        logits, deltas = head(pooled)
        return logits.softmax(dim=-1)[:, :-1], head.bbox_coder.decode(regions[:, 1:], deltas)


class Boxes(Form):
    """Boxes with names."""

    scripts: ClassVar = {SCRIPT: "boxes.py", "pictures.py": "pictures.py"}
    values = "output"
    answers = "boxes"

    def check(self) -> None:
        _ = self._head, self.facts

    def graphs(self, pixels: Tensor, sizes: Mapping[int, Any]) -> dict[str, Graph]:
        head = self._head
        count = 0 if self._roi_head is None else self._roi_head.bbox_roi_extractor.num_inputs
        levels = range(head.prior_generator.num_levels)
        names = [f"{name}_{level}" for level in levels for name in ("scores", "boxes")]
        maps = [f"map_{number}" for number in range(count)]
        whole = Levels(self.model, head, count)
        made = {PIXELS: Graph(whole, {PIXELS: pixels}, [*names, *maps], {PIXELS: sizes})}
        if self._roi_head is None:
            return made
        with torch.no_grad():
            examples = dict(zip(maps, whole(pixels)[len(names) :], strict=True))
        regions = torch.tensor(EXAMPLES).to(pixels)
        sizes = {name: {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} for name in maps}
        made[REGIONS] = Graph(Regions(self._roi_head), {**examples, REGIONS: regions}, ["scores", "boxes"], sizes)
        return made

    @property
    def facts(self) -> dict[str, Any]:
        by = ["class"] if self._roi_head is None else ["level", "class"]
        return {"rules": [_rule(config, each) for config, each in zip(self._configs, by, strict=True)]}

    def answer(self, sessions, pixels, size, whole, facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        regions = sessions.get(REGIONS) and (lambda inputs: sessions[REGIONS](**inputs))
        scale = (size[1] / whole[1], size[0] / whole[0])
        return boxes.boxes_of(sessions[PIXELS](pixels=pixels), size, scale, facts["rules"], regions)

    def same(self, sample: Any, answer) -> tuple[float, float]:
        """Boxes of either that have one of the other of their name in the same place."""
        model, (found, _, labels) = PredictedBoxes.of(sample), answer
        near = (overlaps(model.boxes, found) >= SAME_PLACE) & (model.labels[:, None] == labels[None])
        return float(near.any(axis=0).sum() + near.any(axis=1).sum()), float(sum(near.shape))

    @property
    def _roi_head(self) -> StandardRoIHead | None:
        return getattr(self.model, "roi_head", None)

    @property
    def _configs(self) -> list[Mapping[str, Any]]:
        """What is said of tests for each stage."""
        given = self.model.test_cfg
        return [given] if self._roi_head is None else [given.rpn, given.rcnn]

    @property
    def _head(self) -> BaseDenseHead:
        """The head that gives scores and boxes of all anchors.

        Raises:
            CapabilityError: the model finds boxes in another way.
        """
        name, roi_head = type(self.model).__name__, self._roi_head
        if isinstance(self.model, TwoStageDetector):
            head = getattr(self.model, "rpn_head", None)
            usual = _keeps(head, RPNHead) and _has_usual_regions(roi_head)
        else:
            head = getattr(self.model, "bbox_head", None)
            usual = isinstance(self.model, SingleStageDetector) and isinstance(head, (RetinaHead, RTMDetHead))
            usual = usual and _keeps(head, BaseDenseHead)
        if not usual:
            part = type(head if roi_head is None else roi_head).__name__
            raise CapabilityError(
                f"{name} with {part} finds boxes in a way of its own, which is no fixed graph (the heads of RetinaNet, "
                "RTMDet, YOLO-World and Faster R-CNN are exported); predict with the run"
            )
        return head


def _keeps(head: Any, base: type) -> bool:
    """Whether a head makes boxes of its outputs as its base class does."""
    steps = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    return isinstance(head, base) and all(
        getattr(type(head), step) is getattr(base, step) for step in steps if hasattr(base, step)
    )


def _has_usual_regions(roi_head: Any) -> bool:
    """Whether regions are looked at as in Faster R-CNN, with boxes that are the same for all classes."""
    return (
        type(roi_head) is StandardRoIHead
        and type(roi_head.bbox_roi_extractor) is SingleRoIExtractor
        and not roi_head.with_shared_head
        and _keeps(roi_head.bbox_head, BBoxHead)
        and roi_head.bbox_head.reg_class_agnostic
        and not roi_head.bbox_head.custom_cls_channels
    )


def _rule(config: Mapping[str, Any], by: str) -> dict[str, Any]:
    """What predict.py keeps of scores and boxes, as a config says it of tests.

    Raises:
        CapabilityError: another way of suppressing boxes than `nms`.
    """
    nms = dict(config["nms"])
    if nms.pop("type", "nms") != "nms" or set(nms) - {"iou_threshold", "split_thr", "max_num"}:
        raise CapabilityError(
            f"its config suppresses boxes by {config['nms']['type']} with options that predict.py does not know; fit "
            "with nms=dict(type='nms', iou_threshold=...), or predict with the run"
        )
    before = int(config.get("nms_pre", -1))
    return {
        "by": by,
        "score_thr": float(config.get("score_thr", -1)) if by == "class" else -1.0,
        "nms_pre": before if before > 0 else None,
        "min_bbox_size": float(config.get("min_bbox_size", -1)),
        "iou_threshold": float(nms["iou_threshold"]),
        "max_per_img": int(config["max_per_img"]),
    }
