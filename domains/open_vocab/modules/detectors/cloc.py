"""CLOC: image tokens that a prompt makes a region of, trained on regions and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .....core.backbones import save_fine_tuned
from .....core.contracts import require
from .....core.errors import ConfigError
from .....core.registry import build_loss
from .....registry import MODELS
from ...vocabulary import Classes
from ..backbones.clip_vision import CLIPVisionBackbone
from ..backbones.image_part import whole_patches
from ..losses.region_focal import box_distance
from .cloc_prompter import BoxHead, Prompter
from .region_labeller import RegionLabeller, required_captions

REGIONS = ("given", "grounded")
BOTH = frozenset({"image_features", "image_tokens"})
DETR_WEIGHTS = (5.0, 2.0)  # of L1 and GIoU (2020, arXiv 2005.12872)


@MODELS.register_module()
class CLOC(RegionLabeller):
    """Contrastive Localized Language-Image Pre-Training (2024, arXiv 2410.02746).

    Beside CLIP's loss on images and captions, a `Prompter` turns the tower's tokens and a box into the embedding of
    that region, which is contrasted with the regions' texts as images are with captions; and, prompted by a region's
    text, into one from which a head finds its box. Names a data set has for boxes, or `gt_instances.texts`, are the
    regions' texts.

    From the paper: the three terms, the lightweight prompter, prompts by box and by text, a few regions per image
    and step. Not public, and ours: the form of the prompter (see there), of the box head and its loss (L1 and GIoU as
    in DETR), equal weights of the terms by default, one logit scale for both contrasts, and that equal texts are no
    negatives of each other. Its text tower is trained too, from scratch; here it is CLIP's, frozen.

    Args:
        backbone: spec of the backbone, whose tower is trained whole, or the config of a `CLIPVisionBackbone`.
        classes, templates: as of `RegionLabeller`.
        prompter: options of `Prompter`: hidden, layers, heads.
        regions: what is named in prediction: "given" ones, or "grounded": one for each class, where its name, as a
            prompt, says it is.
        regions_sampled: regions per image in a training step, drawn at random.
        region_weight, grounding_weight, image_text_weight: of the terms; 0 leaves one out.
        box_weights: of L1 and GIoU in the grounding term.
        options: of `RegionLabeller`: multiply_objectness, test_cfg, data_preprocessor, init_cfg.

    Raises:
        ConfigError: an option is out of range. CapabilityError: the tower gives no tokens.
    """

    def __init__(
        self,
        backbone: str | dict,
        classes: Classes,
        templates: str | Sequence[str] = "photo",
        prompter: dict | None = None,
        regions: str = "given",
        regions_sampled: int = 4,
        region_weight: float = 1.0,
        grounding_weight: float = 1.0,
        image_text_weight: float = 1.0,
        box_weights: tuple[float, float] = DETR_WEIGHTS,
        **options: Any,
    ):
        if regions not in REGIONS:
            raise ConfigError(f"option regions='{regions}' is not usable; give one of {', '.join(REGIONS)}")
        require(regions_sampled >= 1, "regions_sampled", regions_sampled, "give 1 or more")
        weights = {"region": region_weight, "grounding": grounding_weight, "image_text": image_text_weight}
        for name, weight in weights.items():
            require(weight >= 0, f"{name}_weight", weight, "give 0 or more")
        whole = {"pyramid": "taps", "train_head": True}
        image = CLIPVisionBackbone(backbone, **whole) if isinstance(backbone, str) else MODELS.build(backbone)
        image.backbone.need("image_tokens")
        super().__init__(image.backbone, classes, templates, **options)
        self.image, self.regions = image, regions
        self.regions_sampled, self.weights, self.box_weights = regions_sampled, weights, tuple(box_weights)
        self.prompter = Prompter(image.backbone.embed_dim, **(prompter or {}))
        self.box_head = BoxHead(image.backbone.embed_dim)
        self.log_scale = nn.Parameter(image.backbone.logit_scale.detach().log().reshape(()).clone())
        self.pair_loss = build_loss("clip")

    @property
    def logit_scale(self) -> Tensor:
        low, high = self.pair_loss.logit_scale_bounds
        return self.log_scale.exp().clamp(low, high)

    def embed_regions(self, batch_inputs: Tensor, regions: list[InstanceData], samples: list) -> list[Tensor]:
        return [
            F.normalize(self.prompter.from_boxes(keys, _shares(region.bboxes, batch_inputs)).float(), dim=1)
            for keys, region in zip(self._seen(batch_inputs, whole=False)[0], regions, strict=True)
        ]

    def ground(self, batch_inputs: Tensor, texts: Sequence[str]) -> Tensor:
        """Where in each image what each text is about is.

        Args:
            batch_inputs: (B, 3, H, W).
            texts: N texts.

        Returns:
            (B, N, 4) boxes x1, y1, x2, y2 in pixels.
        """
        return self._ground(batch_inputs, self.encode_texts(list(texts)))

    @property
    def names_given_regions(self) -> bool:
        """Whether regions come with the samples."""
        return self.regions == "given"

    def regions_of(self, batch_inputs: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        if self.regions == "given":
            return super().regions_of(batch_inputs, samples)
        per_image = self._ground(batch_inputs, self.texts())
        return [
            InstanceData(bboxes=_inside(boxes, sample, batch_inputs))
            for boxes, sample in zip(per_image, samples, strict=True)
        ]

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        keys, images = self._seen(batch_inputs, whole=self.weights["image_text"] > 0)
        losses = {}
        if self.weights["region"] or self.weights["grounding"]:
            losses.update(self._region_losses(keys, batch_inputs, batch_data_samples))
        if images is not None:
            losses["image_text"] = self._image_text(images, batch_data_samples)
        return {f"loss_{name}": self.weights[name] * value for name, value in losses.items() if self.weights[name]}

    def save_backbone(self, folder: str | Path) -> Path:
        """Write the tower, with the text tower it came with, as a backbone; the prompter stays in the checkpoint.

        Returns:
            The path of its weights, which is its spec.
        """
        return save_fine_tuned(self.image.backbone, folder)

    def _seen(self, pixels: Tensor, whole: bool) -> tuple[list[Tensor], Tensor | None]:
        """What the prompter looks at, (P, hidden) of each image; and, if asked, the images' unit features (B, D)."""
        tower, pixels = self.image.backbone, whole_patches(self.image.backbone, pixels)
        if whole and "image_blocks" in tower.capabilities:  # one pass gives both
            made, grid = tower.image_outputs(pixels, BOTH), tower.image_grid(pixels)
            tokens, images = made["image_tokens"], made["image_features"]
        else:
            tokens, grid = tower.image_tokens(pixels)
            images = tower.image_outputs(pixels, BOTH - {"image_tokens"})["image_features"] if whole else None
        return [self.prompter.keys(each, grid) for each in tokens], images

    def _ground(self, pixels: Tensor, texts: Tensor) -> Tensor:
        boxes = torch.stack(
            [self.box_head(self.prompter.from_texts(keys, texts)) for keys in self._seen(pixels, whole=False)[0]]
        )
        return bbox_cxcywh_to_xyxy(boxes) * _sides(pixels)  # (B, N, 4)

    def _region_losses(self, seen: list[Tensor], pixels: Tensor, samples: list[DetDataSample]) -> dict[str, Tensor]:
        embedded, grounded, texts, boxes = [], [], [], []
        for keys, sample in zip(seen, samples, strict=True):
            region = self._sampled(sample.gt_instances)
            rows = self.text_features_of(region)
            places = _shares(get_box_tensor(region.bboxes), pixels)
            embedded.append(self.prompter.from_boxes(keys, places))
            grounded.append(self.box_head(self.prompter.from_texts(keys, rows.to(keys))))
            texts.append(rows)
            boxes.append(places)
        contrast = self._contrast(torch.cat(embedded), torch.cat(texts))
        l1, giou = box_distance(torch.cat(grounded), bbox_xyxy_to_cxcywh(torch.cat(boxes)))
        return {"region": contrast, "grounding": self.box_weights[0] * l1 + self.box_weights[1] * giou}

    def _contrast(self, regions: Tensor, texts: Tensor) -> Tensor:
        regions = F.normalize(regions.float(), dim=1)  # (N, D)
        if not len(regions):
            return regions.sum() + self.log_scale * 0
        out = {"image_features": regions, "text_features": texts.to(regions), "logit_scale": self.logit_scale}
        return self.pair_loss.of_whole_batch(out, progress=0.0)["loss"]

    def _image_text(self, images: Tensor, samples: list[DetDataSample]) -> Tensor:
        texts = self.encode_texts(required_captions(samples)).to(images)
        out = {"image_features": images, "text_features": texts, "logit_scale": self.logit_scale}
        return self.pair_loss(out)["loss"]

    def _sampled(self, regions: InstanceData) -> InstanceData:
        if len(regions) <= self.regions_sampled:
            return regions
        return regions[torch.randperm(len(regions))[: self.regions_sampled]]


def _sides(pixels: Tensor) -> Tensor:
    """(4,): width, height, width, height."""
    return pixels.new_tensor([pixels.shape[-1], pixels.shape[-2]] * 2, dtype=torch.float32)


def _shares(boxes: Tensor, pixels: Tensor) -> Tensor:
    """Boxes in pixels -> in shares of the image, (N, 4) float32."""
    sides = _sides(pixels)
    return boxes.to(sides) / sides


def _inside(boxes: Tensor, sample: DetDataSample, pixels: Tensor) -> Tensor:
    """Boxes cut off at the edges of the image."""
    height, width = sample.get("img_shape", pixels.shape[-2:])[:2]
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
