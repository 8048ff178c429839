"""DenseCLIP for detection and instance segmentation: pixel-text score maps guide any mmdet detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmdet.models.detectors.base import BaseDetector
from mmengine.config import ConfigDict
from torch import Tensor, nn

from .....registry import MODELS
from ...vocabulary import Classes, Vocabulary
from ..backbones.image_part import detection_preprocessor
from ..segmentors.denseclip import parts

BOX_SCORES = {"type": "vladapt.BoxScoreLoss"}


@MODELS.register_module()
class GivenMaps(nn.Module):
    """Stands where a detector has its backbone, once its maps are made elsewhere: gives what it is given."""

    def forward(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        return maps


@MODELS.register_module()
class DenseCLIPDetector(BaseDetector, parts.WithScores):
    """DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518).

    As `DenseCLIPSegmentor`, around a detector of mmdet: scores / tau are appended to one of the maps that its neck
    reads, and are taught by the boxes. Classes at test time follow the same rule.

    Args:
        backbone: spec of both towers.
        classes: C names, as for `Vocabulary.of`.
        detector: config of a detector such as mmdet's RetinaNet or MaskRCNN, without backbone and data preprocessor;
            `neck.in_channels` and `num_classes` may be left out.
        score_loss: config of the auxiliary loss, or None.
        tower: options of `DenseCLIPBackbone`: out_indices, norm_cfg, norm_eval, frozen, drop_path.
        matching: options of `PixelTextMatching`: n_ctx, prompting, context_std, gamma, decoder.
        concat_scores: whether scores are appended to a map.
        score_concat_index: to which, brought to its size. None is the map of the scores' own stride: as published, 3
            for a ResNet.
        tau: what scores are divided by.
        data_preprocessor: None is the one that the tower's pixels need.

    Raises:
        ConfigError: an option is not usable, or a part of the config does not fit the number of classes.
        CapabilityError: the tower has no maps, or takes no prompts.
    """

    templates = "name"

    def __init__(
        self,
        backbone: str,
        classes: Classes,
        detector: Mapping[str, Any],
        score_loss: Mapping[str, Any] | None = BOX_SCORES,
        tower: Mapping[str, Any] | None = None,
        matching: Mapping[str, Any] | None = None,
        concat_scores: bool = True,
        score_concat_index: int | None = None,
        tau: float = 0.07,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ):
        preprocessor = data_preprocessor or detection_preprocessor(backbone)
        super().__init__(data_preprocessor=preprocessor, init_cfg=init_cfg)
        self.build_scores(backbone, classes, tower, matching, concat_scores, score_concat_index, tau)
        config = {**parts.fit_classes(detector, len(self.matching.prompts)), "backbone": {"type": "vladapt.GivenMaps"}}
        if config.get("neck") is not None:
            config["neck"] = self.neck_over_maps(config["neck"])
        self.detector = MODELS.build(ConfigDict(config))
        self.score_loss = None if score_loss is None else MODELS.build(dict(score_loss))

    def extract_feat(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) -> what the heads read."""
        return self.detector.extract_feat(self._maps(batch_inputs)[0])

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """The detector's losses and `loss_scores`."""
        maps, scores = self._maps(batch_inputs)
        losses = self.detector.loss(maps, batch_data_samples)
        if self.score_loss is not None:
            losses["loss_scores"] = self._score_loss(scores, maps[0], batch_inputs, batch_data_samples)
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """The samples with `pred_instances`."""
        return self.detector.predict(self._maps(batch_inputs)[0], batch_data_samples, rescale=rescale)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> Any:
        return self.detector._forward(self._maps(batch_inputs)[0], batch_data_samples)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Replace the names.

        Raises:
            CapabilityError: another number of them than this model can take.
        """
        parts.refuse_other_number(self, self.detector, vocabulary)
        self.matching.take(vocabulary)

    def _maps(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the neck reads, and the (B, C, h, w) scores / tau."""
        *maps, (pooled, places) = self.backbone(inputs)
        scores = self.matching(pooled, places)[1] / self.tau
        return self.beside_scores(maps, scores), scores

    def _score_loss(self, scores: Tensor, finest: Tensor, inputs: Tensor, samples: list) -> Tensor:
        truths = [sample.gt_instances for sample in samples]
        boxes = [getattr(instances.bboxes, "tensor", instances.bboxes) for instances in truths]
        logits = F.interpolate(scores, size=finest.shape[2:], mode="bilinear", align_corners=False)
        stride = inputs.shape[-1] / finest.shape[-1]
        return self.score_loss(logits, boxes, [instances.labels for instances in truths], stride)
