"""Regions named by an Alpha-CLIP that looks at each of them within its image (2023, arXiv 2312.03818)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from .....core.contracts import require
from .....core.errors import ConfigError
from .....core.registry import build_loss
from .....registry import MODELS
from ...vocabulary import Classes
from ..backbones.alpha_clip import AlphaCLIPBackbone, box_masks
from .region_labeller import RegionLabeller, image_captions

OBJECTIVES = ("contrastive", "classes")
ALPHAS = ("mask", "box")


@MODELS.register_module()
class AlphaCLIPRegions(RegionLabeller):
    """Alpha-CLIP over the regions of a data set: trained on regions and their texts, it names regions it is given.

    A region's alpha map is 1 on its mask (or box) and 0 elsewhere. In training, regions and their texts are contrasted
    as images and captions are in CLIP, with the text tower frozen: `gt_instances.texts` where the data has them, else
    the names of classes (regions of one class share their text evenly). A batch is that of one process, as ranks hold
    unlike numbers of regions.

    Args:
        backbone: spec of the backbone, or the config of an `AlphaCLIPBackbone`.
        classes, templates: as of `RegionLabeller`.
        objective: "contrastive", as published, or "classes": cross-entropy over all classes, whatever the batch holds.
        alpha: where a region has a mask: "mask" takes it, "box" takes its box nevertheless.
        label_smoothing: share of the target that is spread evenly, 0 to below 1.
        whole_share: with this probability an image that has a caption is seen whole, alpha all 1, against its caption
            in place of its regions, so that this is not forgotten.
        logit_scale: cosines are multiplied by it; None takes the backbone's, which is 100 for CLIP, as published.
        options: of `RegionLabeller`: multiply_objectness, test_cfg, data_preprocessor, init_cfg.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        backbone: str | dict,
        classes: Classes,
        templates: str | Sequence[str] = "photo",
        objective: str = "contrastive",
        alpha: str = "mask",
        label_smoothing: float = 0.1,
        whole_share: float = 0.1,
        logit_scale: float | None = None,
        **options: Any,
    ):
        for name, value, known in (("objective", objective, OBJECTIVES), ("alpha", alpha, ALPHAS)):
            if value not in known:
                raise ConfigError(f"option {name}='{value}' is not usable; give one of {', '.join(known)}")
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "give 0 to below 1")
        require(0 <= whole_share <= 1, "whole_share", whole_share, "give 0 to 1")
        seer = AlphaCLIPBackbone(backbone) if isinstance(backbone, str) else MODELS.build(backbone)
        towers = seer.image.backbone
        super().__init__(towers, classes, templates, **options)
        self.backbone = seer
        self.contrast = build_loss("clip", label_smoothing=label_smoothing)
        self.objective, self.alpha = objective, alpha
        self.label_smoothing, self.whole_share = label_smoothing, whole_share
        self._scale = float(towers.logit_scale if logit_scale is None else logit_scale)

    @property
    def image(self):
        """The image tower."""
        return self.backbone.image

    @property
    def logit_scale(self) -> float:
        return self._scale

    def classify_regions(self, pixels: Tensor, *, masks: Tensor | None = None, boxes: Tensor | None = None) -> Tensor:
        """(N, C) probabilities of the regions of one image (3, H, W), as `AlphaCLIPBackbone.classify_regions`."""
        scaled = self.backbone.classify_regions(pixels, self.texts(), masks=masks, boxes=boxes)
        return (scaled * (self.logit_scale / self.image.backbone.logit_scale.detach())).softmax(dim=1)

    def embed_regions(self, batch_inputs: Tensor, regions: list[InstanceData], samples: list) -> list[Tensor]:
        return [
            self._embed(pixels, region, sample)
            for pixels, region, sample in zip(batch_inputs, regions, samples, strict=True)
        ]

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        learned = self._class_loss if self.objective == "classes" else self._contrast
        return {"loss_region": learned(batch_inputs, batch_data_samples)}

    def _class_loss(self, batch_inputs: Tensor, samples: list[DetDataSample]) -> Tensor:
        regions = [sample.gt_instances for sample in samples]
        features = torch.cat(self.embed_regions(batch_inputs, regions, samples))  # (N, D)
        labels = torch.cat([region.labels for region in regions])
        logits = self.logit_scale * features @ self.texts().to(features).T
        if not len(labels):
            return features.sum() + self._nothing
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def _contrast(self, batch_inputs: Tensor, samples: list[DetDataSample]) -> Tensor:
        features, texts = [], []
        for pixels, sample, caption in zip(batch_inputs, samples, image_captions(samples), strict=True):
            if caption is not None and float(torch.rand(())) < self.whole_share:
                features.append(self._embed_whole(pixels, sample))
                texts.append(self.encode_texts([caption]))
            else:
                features.append(self._embed(pixels, sample.gt_instances, sample))
                texts.append(self.text_features_of(sample.gt_instances))
        regions = torch.cat(features)  # (N, D)
        if not len(regions):
            return regions.sum() + self._nothing
        pairs = {"image_features": regions, "text_features": torch.cat(texts).to(regions)}
        scale = regions.new_tensor(self.logit_scale)
        return self.contrast.of_whole_batch({**pairs, "logit_scale": scale}, progress=0.0)["loss"]

    @property
    def _nothing(self) -> Tensor:
        """0, with a gradient: a batch without regions trains nothing and ends no run."""
        return self.backbone.alpha_conv.weight.sum() * 0

    def _embed(self, pixels: Tensor, region: InstanceData, sample: DetDataSample) -> Tensor:
        height, width = _inside(sample, pixels)
        if self.alpha == "mask" and "masks" in region:
            masks = region.masks.to_tensor(torch.float32, pixels.device)[:, :height, :width]
        else:
            masks = box_masks(region.bboxes.to(pixels), (height, width))
        return self.backbone.encode_regions(pixels[:, :height, :width], masks)

    def _embed_whole(self, pixels: Tensor, sample: DetDataSample) -> Tensor:
        height, width = _inside(sample, pixels)
        return self.backbone.encode_regions(pixels[:, :height, :width], pixels.new_ones(1, height, width))


def _inside(sample: DetDataSample, pixels: Tensor) -> tuple[int, int]:
    """Height and width of the image, without what pads it to the batch's."""
    height, width = sample.get("img_shape", pixels.shape[-2:])[:2]
    return min(height, pixels.shape[-2]), min(width, pixels.shape[-1])
