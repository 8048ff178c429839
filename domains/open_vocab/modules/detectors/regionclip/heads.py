"""RegionCLIP's transfer to open-vocabulary detection: its RoI head and box head for mmdet (2021, arXiv 2112.09106)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmengine.structures import InstanceData
from torch import Tensor

from ......core.backbones import load_backbone
from ......registry import MODELS
from ....vocabulary import Classes, NamedClasses, Vocabulary
from ...classifiers.cosine import CosineTextClassifier

OBJECTNESS = "objectness"
"""Under this name the RoI head hands the scores of proposals to its box head, with the facts of their image."""
FOCAL = {"type": "vladapt.FocalScaledCrossEntropy", "gamma": 0.5, "background_weight": 0.2}
DISTANCE = {"type": "mmdet.L1Loss", "loss_weight": 1.0}


@MODELS.register_module()
class AttentionPoolRoIHead(StandardRoIHead):
    """mmdet's StandardRoIHead for C4 detectors on CLIP's ResNets: regions go through its last stage, then its pool.

    `shared_head` is a `CLIPLastStage`. Boxes are found from what its attention pool gives, masks from the map before.
    The RoI extractor's `output_size` is twice the side the pool knows: 14 for RN50 and RN101 at 224 pixels.
    """

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]:
        crops = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        maps = self.shared_head(crops)  # (R, 2C, s, s)
        cls_score, bbox_pred = self.bbox_head(self.shared_head.pool(maps))
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": maps}

    def predict_bbox(self, x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale=False):
        known = [
            {**meta, OBJECTNESS: _scores(proposals)}
            for meta, proposals in zip(batch_img_metas, rpn_results_list, strict=True)
        ]
        return super().predict_bbox(x, known, rpn_results_list, rcnn_test_cfg, rescale)


def _scores(proposals: InstanceData) -> Tensor:
    return proposals.scores if "scores" in proposals else proposals.bboxes.new_ones(len(proposals))


@MODELS.register_module()
class RegionCLIPBBoxHead(BBoxHead, NamedClasses):
    """Regions against texts: cosine / temperature, an embedding of zeros for the background, one box for all classes.

    Args:
        backbone: spec of the backbone whose text tower reads the names; its features are what regions come as.
        classes, templates: as for `Vocabulary.of`. `set_classes` gives others at any time.
        temperature: cosines are divided by it.
        multiply_objectness: score by sqrt(probability * score of the proposal), in an `AttentionPoolRoIHead`; off for
            COCO as published.
        refine: move proposals by the regression in prediction; published without it for zero-shot inference.
        loss_cls: default `FocalScaledCrossEntropy` with its published values.
        options: of mmdet's head. num_classes and reg_class_agnostic count for nothing: classes are counted, and
            regression knows none.
    """

    def __init__(
        self,
        backbone: str,
        classes: Classes,
        templates: str | Sequence[str] = "photo",
        temperature: float = 0.01,
        multiply_objectness: bool = False,
        refine: bool = True,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        num_classes: int | None = None,
        reg_class_agnostic: bool = True,
        **options: Any,
    ):
        width = load_backbone(backbone, device="cpu").embed_dim
        options = {"in_channels": width, "roi_feat_size": 1, **options}
        count = len(Vocabulary.of(classes, templates))
        losses = {"loss_cls": loss_cls or FOCAL, "loss_bbox": loss_bbox or DISTANCE}
        super().__init__(num_classes=count, reg_class_agnostic=True, **losses, **options)
        self.fc_cls = CosineTextClassifier(
            width, backbone, classes, templates, projection="none", background="zeros", temperature=temperature
        )
        self.multiply_objectness, self.refine = multiply_objectness, refine

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) or (R, D, 1, 1) -> logits (R, C + 1), the background last, and deltas (R, 4)."""
        return super().forward(x.flatten(1))

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Count the classes that the classifier now has."""
        self.num_classes = len(vocabulary)

    def predict_by_feat(self, rois, cls_scores, bbox_preds, batch_img_metas, rcnn_test_cfg=None, rescale=False):
        moves = bbox_preds if self.refine else (None,) * len(bbox_preds)
        return super().predict_by_feat(rois, cls_scores, moves, batch_img_metas, rcnn_test_cfg, rescale)

    def _predict_by_feat_single(self, roi, cls_score, bbox_pred, img_meta, rescale=False, rcnn_test_cfg=None):
        predict = super()._predict_by_feat_single
        if not (self.multiply_objectness and len(roi)):
            return predict(roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg)
        instances = predict(roi, cls_score, bbox_pred, img_meta, rescale, None)  # all boxes and scores, as they are
        instances.scores = (instances.scores * img_meta[OBJECTNESS].to(instances.scores)[:, None]).sqrt()
        if rcnn_test_cfg is None:
            return instances
        kept, labels = multiclass_nms(
            instances.bboxes, instances.scores, rcnn_test_cfg.score_thr, rcnn_test_cfg.nms, rcnn_test_cfg.max_per_img
        )
        return InstanceData(bboxes=kept[:, :-1], scores=kept[:, -1], labels=labels)
