"""RegionCLIP's pretraining, and what it knows without more: regions named by their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from ......core.backbones import load_backbone, save_fine_tuned
from ......core.contracts import require
from ......core.registry import build_loss
from ......registry import MODELS
from ....vocabulary import Classes, Vocabulary, embed_classes, text_backbone
from ...backbones.clip_c4 import PUBLISHED_FROZEN, modified_resnet
from ...backbones.clip_vision import CLIPVisionBackbone
from ...losses.region_concepts import RegionConceptLoss
from ..region_labeller import RegionLabeller, required_captions
from .proposals import GivenProposals, RpnProposals, proposals_of, region_features, whole_boxes


@MODELS.register_module()
class RegionCLIP(RegionLabeller):
    """RegionCLIP: Region-based Language-Image Pretraining (2021, arXiv 2112.09106).

    A frozen CLIP looks at regions of captioned images and names them from a pool of concepts; a copy of it learns its
    scores over the pool ("distill"), to tell the concepts of a batch apart ("contrast"), and, by the region that is
    the whole image, to find its caption ("image_text"). Text towers are frozen. No box is labelled by hand.

    It predicts the classes of regions it is given, by softmax of cosine / temperature with an embedding of zeros for
    the background; boxes stay as they are. For detection take its tower into a Fast R-CNN with `RegionCLIPBBoxHead`:
    `save_backbone` writes it as a backbone that any config names.

    Args:
        backbone: spec of the student, a copy of which is the teacher, or the config of a `CLIPVisionBackbone` for it.
            Published: CLIP's ResNets with stem and first stage frozen (`frozen_stages=1`), which is what a spec gives;
            ViTs and others give the mean of their image tokens in a region, which is ours, and train whole.
        concepts: the pool, names as for `Vocabulary.of` (published: 4,764 nouns of captions).
        classes: what regions are named in prediction; None takes the concepts.
        templates: of the classes.
        concept_templates: of the concepts; published: CLIP's 80.
        teacher: spec of another teacher, or None.
        proposals: "given" (`proposals` of the samples, else their boxes), "random", or the config of a detector whose
            RPN gives them (`checkpoint` in it), published.
        regions_proposed: of them an image.
        regions_sampled: of those, drawn at random in training.
        threshold: a region takes part where the teacher's best probability is above it.
        temperature: cosines are divided by it; the teacher's always by 0.01.
        distill_weight, contrast_weight, image_text_weight: of the three losses; 0 leaves one out.
        options: of `RegionLabeller`: multiply_objectness, test_cfg, data_preprocessor, init_cfg.

    Raises:
        ConfigError: an option is out of range.
    """

    concept_rows: Tensor
    teacher_rows: Tensor

    def __init__(
        self,
        backbone: str | dict,
        concepts: Classes | Vocabulary,
        classes: Classes | None = None,
        templates: str | Sequence[str] = "photo",
        concept_templates: str | Sequence[str] = "imagenet-80",
        teacher: str | None = None,
        proposals: str | dict = "given",
        regions_proposed: int = 300,
        regions_sampled: int = 100,
        threshold: float = 0.1,
        temperature: float = 0.01,
        distill_weight: float = 1.0,
        contrast_weight: float = 1.0,
        image_text_weight: float = 1.0,
        **options: Any,
    ):
        require(regions_proposed >= 1, "regions_proposed", regions_proposed, "give 1 or more")
        require(regions_sampled >= 1, "regions_sampled", regions_sampled, "give 1 or more")
        pool = concepts if isinstance(concepts, Vocabulary) else Vocabulary.of(concepts, concept_templates)
        image = _student(backbone) if isinstance(backbone, str) else MODELS.build(backbone)
        named = list(pool.names) if classes is None else classes
        super().__init__(image.backbone, named, templates, background=True, **options)
        self.image, self.teacher_spec = image, teacher or image.backbone.spec
        self.weights = {"distill": distill_weight, "contrast": contrast_weight, "image_text": image_text_weight}
        for name, weight in self.weights.items():
            require(weight >= 0, f"{name}_weight", weight, "give 0 or more")
        self.proposals, self.regions_sampled = proposals_of(proposals, regions_proposed), regions_sampled
        self.concept_loss = RegionConceptLoss(threshold, temperature)
        self.image_text_loss = build_loss("clip")
        # The pool is made anew with the model, and new classes leave it alone: buffers, not saved.
        for name, spec in (("concept_rows", image.backbone.spec), ("teacher_rows", self.teacher_spec)):
            self.register_buffer(name, embed_classes(pool, text_backbone(spec)), persistent=False)

    @property
    def names_given_regions(self) -> bool:
        """Whether regions come with the samples."""
        return isinstance(self.proposals, GivenProposals)

    @property
    def logit_scale(self) -> float:
        return 1 / self.concept_loss.temperature

    def regions_of(self, batch_inputs: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        pixels = batch_inputs
        if isinstance(self.proposals, RpnProposals):
            pixels = batch_inputs * self.data_preprocessor.std + self.data_preprocessor.mean
        return self.proposals(pixels, samples)

    def embed_regions(self, batch_inputs: Tensor, regions: list[InstanceData], samples: list) -> list[Tensor]:
        return region_features(self.image.backbone, batch_inputs, [region.bboxes for region in regions])

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        boxes = [self._sampled(region.bboxes) for region in self.regions_of(batch_inputs, batch_data_samples)]
        wholes = whole_boxes(batch_data_samples, batch_inputs)
        asked = [torch.cat([whole, rows.to(whole)]) for whole, rows in zip(wholes, boxes, strict=True)]
        features = region_features(self.image.backbone, batch_inputs, asked)
        losses = {}
        if self.weights["distill"] or self.weights["contrast"]:
            losses.update(self._concept_losses(torch.cat([rows[1:] for rows in features]), batch_inputs, boxes))
        if self.weights["image_text"]:
            losses["image_text"] = self._image_text(torch.cat([rows[:1] for rows in features]), batch_data_samples)
        return {f"loss_{name}": self.weights[name] * value for name, value in losses.items() if self.weights[name]}

    def save_backbone(self, folder: str | Path) -> Path:
        """Write the student, with the text tower it came with, as a backbone.

        Returns:
            The path of its weights, which is its spec.
        """
        return save_fine_tuned(self.image.backbone, folder)

    def _sampled(self, boxes: Tensor) -> Tensor:
        return boxes[torch.randperm(len(boxes))[: self.regions_sampled].to(boxes.device)]

    def _concept_losses(self, features: Tensor, pixels: Tensor, boxes: list[Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher = text_backbone(self.teacher_spec, str(self.image.backbone.device))
            seen = torch.cat(region_features(teacher, pixels, boxes))  # (R, D')
        labels = self.concept_loss.pseudo_labels(seen, self.teacher_rows)
        return self.concept_loss(features, self.concept_rows, labels)

    def _image_text(self, features: Tensor, samples: list[DetDataSample]) -> Tensor:
        texts = self.encode_texts(required_captions(samples))
        scale = features.new_tensor(self.logit_scale)
        out = {"image_features": features, "text_features": texts.to(features), "logit_scale": scale}
        return self.image_text_loss(out)["loss"]


def _student(spec: str) -> CLIPVisionBackbone:
    is_resnet = modified_resnet(load_backbone(spec, device="cpu")) is not None
    return CLIPVisionBackbone(
        spec, pyramid="taps", frozen_stages=PUBLISHED_FROZEN if is_resnet else -1, train_head=True
    )
