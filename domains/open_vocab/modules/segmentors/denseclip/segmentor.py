"""DenseCLIP for semantic segmentation: pixel-text score maps guide any mmsegmentation neck and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmseg.models.segmentors import BaseSegmentor, EncoderDecoder
from mmseg.utils import add_prefix
from torch import Tensor

from ......registry import MODELS
from ....vocabulary import Classes, Vocabulary
from ...backbones.image_part import segmentation_preprocessor
from . import parts

IDENTITY = {"type": "vladapt.IdentityHead"}


@MODELS.register_module()
class DenseCLIPSegmentor(EncoderDecoder, parts.WithScores):
    """DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518).

    The image tower gives maps, its pooling at every place the cosines with the classes' texts; these score maps are
    appended to one of the maps, go through neck and head, and are trained themselves by a cross-entropy of
    scores / tau. The text tower is frozen and outside the model; gradients pass through it to contexts and image.

    The published model is closed: its neck reads one channel per class. `take_classes` therefore takes as many names as
    it was built with, in whose order the head answers. Any number goes with `concat_scores=False` and a decode head
    that classifies by text.

    Args:
        backbone: spec of both towers.
        classes: C names, as for `Vocabulary.of`; descriptions of a class are texts of it too.
        decode_head: of mmseg, or one of ours; `num_classes` may be left out, here and below.
        neck: of mmseg or mmdet; `in_channels` may be left out.
        auxiliary_head: reads what the neck gives, or the bare maps where there is none.
        identity_head: the head that the scores / tau go to, or None.
        tower: options of `DenseCLIPBackbone`: out_indices, norm_cfg, norm_eval, frozen, drop_path.
        matching: options of `PixelTextMatching`: n_ctx, prompting, context_std, gamma, decoder.
        concat_scores: whether scores are appended to a map.
        score_concat_index: to which, brought to its size. None is the map of the scores' own stride: as published, 3
            for a ResNet and 2 for a ViT-B/16.
        tau: temperature of the scores in their own loss.
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
        decode_head: Mapping[str, Any],
        neck: Mapping[str, Any] | None = None,
        auxiliary_head: Mapping[str, Any] | list[Mapping[str, Any]] | None = None,
        identity_head: Mapping[str, Any] | None = IDENTITY,
        tower: Mapping[str, Any] | None = None,
        matching: Mapping[str, Any] | None = None,
        concat_scores: bool = True,
        score_concat_index: int | None = None,
        tau: float = 0.07,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ):
        preprocessor = data_preprocessor or segmentation_preprocessor(backbone)
        BaseSegmentor.__init__(self, data_preprocessor=preprocessor, init_cfg=init_cfg)
        self.build_scores(backbone, classes, tower, matching, concat_scores, score_concat_index, tau)
        count = len(self.matching.prompts)
        if neck is not None:
            self.neck = MODELS.build(self.neck_over_maps(neck))
        heads = parts.fit_classes({"decode_head": decode_head, "auxiliary_head": auxiliary_head}, count)
        self._init_decode_head(heads["decode_head"])
        self._init_auxiliary_head(heads["auxiliary_head"])
        self.identity_head = None if identity_head is None else MODELS.build({"num_classes": count, **identity_head})
        self.train_cfg, self.test_cfg = ConfigDict(train_cfg or {}), ConfigDict(test_cfg or {"mode": "whole"})

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what the head reads."""
        return self._features(inputs)[0]

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """`decode.*`, `identity.*` and `aux.*` of a batch."""
        features, maps, scores = self._features(inputs)
        losses = self._decode_head_forward_train(features, data_samples)
        if self.identity_head is not None:
            identity = self.identity_head.loss(scores / self.tau, data_samples, self.train_cfg)
            losses.update(add_prefix(identity, "identity"))
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(features if self.with_neck else maps, data_samples))
        return losses

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Replace the names.

        Raises:
            CapabilityError: another number of them than this model can take.
        """
        parts.refuse_other_number(self, self.decode_head, vocabulary)
        self.matching.take(vocabulary)
        self.num_classes = self.out_channels = len(vocabulary)

    def _features(self, inputs: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """What the head reads, the bare maps, and the (B, C, h, w) scores."""
        *maps, (pooled, places) = self.backbone(inputs)
        _, scores = self.matching(pooled, places)
        features = self.beside_scores(maps, scores)
        return list(self.neck(features)) if self.with_neck else features, maps, scores
