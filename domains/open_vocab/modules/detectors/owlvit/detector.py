"""OWL-ViT: a vision transformer whose every patch gives a box and an embedding, to be asked by texts or by images.

Simple Open-Vocabulary Object Detection with Vision Transformers, 2022, arXiv 2205.06230. Where it is an option, Scaling
Open-Vocabulary Object Detection (OWLv2), 2023, arXiv 2306.09683.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert, box_iou, generalized_box_iou

from ......core.errors import ConfigError
from ......registry import MODELS
from ....vocabulary import Classes
from ...backbones.image_part import detection_preprocessor
from ...losses.matching import BoxTargets
from .heads import ClassHead, PatchMLP, box_bias, box_targets, merge_overlapping, most_typical
from .queries import PUBLISHED, DrawnQueries, OWLQueries, TextPart
from .tower import PatchTower, drop_layers, load_published_heads, published_heads

BOX_BIASES = ("both", "location", "size", "none")


@MODELS.register_module()
class OWLViT(BaseDetector):
    """Detects what is named, by texts (`set_classes`) or by example images (`set_image_queries`).

    Images are padded to a square, and boxes are shares of it. Published settings are the defaults. The published
    training clips the gradient of each image of a batch by itself; mmengine clips that of the batch, which is what the
    packaged recipe does, or of each image where a batch holds one.

    Args:
        backbone: spec; a vision transformer with a class token (CLIP of open_clip or hf). With the `hf:` spec of an
            OWL-ViT or OWLv2 its heads are loaded too.
        classes: what to look for; as for `Vocabulary.of`.
        templates, train_templates, negatives, max_queries, canonical_text: see `OWLQueries`.
        train_text: train the text tower too (the published way, at a lower rate: 2e-6 beside 5e-5); False keeps it
            frozen and outside the model.
        merge_class_token: "mul-ln" or "drop", see `PatchTower`.
        box_bias: where patches' boxes begin: "both", "location", "size" (see `box_bias`) or "none".
        prior: chance that a patch answers a query, to begin with.
        masked_logit: of a query that an image has not, see `ClassHead`.
        image_droplayer, text_droplayer: rates at which layers are left out in training.
        merge_iou: true boxes that overlap so much become one with the labels of both; None keeps them apart.
        objectness: OWLv2's third head, which learns how well a patch will answer. Each training image then uses its
            best patches only. None has it where the checkpoint has it.
        kept_patches: share of the patches that are used in training with `objectness`.
        loss: config of the matching and its losses, `MatchingLoss` by default.
        max_per_img: detections per image, the best of all patches and queries.
        score_thr: least score of a detection.
        nms_iou: boxes of one class that overlap more go but for the best; None keeps all, as published.
        data_preprocessor: by default the backbone's mean and std.

    Raises:
        ConfigError: an option is not usable. CapabilityError: the backbone has no such tower.
    """

    def __init__(
        self,
        backbone: str,
        classes: Classes,
        templates: str | Sequence[str] = "imagenet-7",
        train_templates: str | Sequence[str] | None = PUBLISHED,
        train_text: bool = True,
        canonical_text: bool = True,
        merge_class_token: str = "mul-ln",
        box_bias: str = "both",
        prior: float = 0.01,
        masked_logit: float | None = -1e6,
        image_droplayer: float = 0.2,
        text_droplayer: float = 0.1,
        negatives: int = 50,
        max_queries: int = 100,
        merge_iou: float | None = 0.9,
        objectness: bool | None = None,
        kept_patches: float = 0.1,
        loss: dict[str, Any] | None = None,
        max_per_img: int = 300,
        score_thr: float = 0.0,
        nms_iou: float | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        _check(box_bias, image_droplayer, text_droplayer, kept_patches)
        tower = PatchTower(backbone, merge_class_token, image_droplayer)
        super().__init__(data_preprocessor or _preprocessor(backbone), init_cfg)
        self.tower = tower
        self.text = _text_part(tower.backbone, text_droplayer) if train_text else None
        self.queries = OWLQueries(
            backbone,
            classes,
            templates,
            train_templates,
            tower.backbone if train_text else None,
            negatives,
            max_queries,
            canonical_text,
        )
        self.box_bias, self.merge_iou, self.kept_patches = box_bias, merge_iou, kept_patches
        self.max_per_img, self.score_thr, self.nms_iou = max_per_img, score_thr, nms_iou
        published = published_heads(tower.backbone)
        self._build_heads(prior, masked_logit, "objectness_head" in published if objectness is None else objectness)
        load_published_heads(self, published, backbone)
        self.matching = MODELS.build({"type": "vladapt.MatchingLoss", **(loss or {})})

    def _build_heads(self, prior: float, masked_logit: float | None, objectness: bool) -> None:
        width, dim = self.tower.width, self.tower.backbone.embed_dim
        self.layer_norm = nn.LayerNorm(width) if self.tower.merge == "mul-ln" else None
        self.class_head = ClassHead(width, dim, prior, masked_logit)
        self.box_head = PatchMLP(width, 4)
        self.objectness_head = PatchMLP(width, 1) if objectness else None

    # One image or many ------------------------------------------------------------------------------------------------

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> patches (B, N, W) and their grid (h, w), N = h * w."""
        return self.tower(self.tower.square(batch_inputs), self.layer_norm)

    def boxes(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, W) -> (B, N, 4): centre, width and height, shares of the square."""
        shift = self.box_head(patches).float()
        if self.box_bias != "none":
            shift = shift + box_bias(grid, self.box_bias, patches.device)
        return shift.sigmoid()

    def objectness(self, patches: Tensor) -> Tensor:
        """(B, N, W) -> (B, N) logits. No gradient reaches the patches.

        Raises:
            ConfigError: the model has no such head.
        """
        if self.objectness_head is None:
            raise ConfigError("OWLViT: it has no head for objectness; build it with objectness=True")
        return self.objectness_head(patches.detach())[..., 0].float()

    def _forward(self, batch_inputs: Tensor, batch_data_samples=None) -> tuple[Tensor, Tensor]:
        """Logits (B, N, C) and boxes (B, N, 4)."""
        patches, grid = self.extract_feat(batch_inputs)
        return self.class_head(patches, self.queries()).float(), self.boxes(patches, grid)

    # Training ---------------------------------------------------------------------------------------------------------

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """The parts of `MatchingLoss`, and "loss_objectness" where there is that head.

        Classes that are known not to be in an image, asked for before random ones, are `facts["absent"]` of its
        metainfo, as `DetectionDataset` has them.
        """
        truth = [sample.gt_instances for sample in batch_data_samples]
        drawn = self.queries.draw(
            [instances.labels for instances in truth],
            [(sample.metainfo.get("facts") or {}).get("absent", ()) for sample in batch_data_samples],
        )
        patches, grid = self.extract_feat(batch_inputs)
        targets = self._targets(truth, drawn, self.tower.square(batch_inputs).shape[-2:])
        boxes = self.boxes(patches, grid)
        if self.objectness_head is None:
            return self.matching(self.class_head(patches, drawn.embeddings, drawn.mask), boxes, targets)
        return self._loss_of_best(patches, boxes, drawn, targets)

    def _targets(self, truth: Sequence[InstanceData], drawn: DrawnQueries, side: Sequence[int]) -> list[BoxTargets]:
        targets = []
        for instances, queries in zip(truth, drawn.classes):
            target = box_targets(_tensor(instances.bboxes), instances.labels, queries, tuple(side))
            target.labels = F.pad(target.labels, (0, drawn.mask.shape[1] - len(queries)))
            targets.append(target if self.merge_iou is None else merge_overlapping(target, self.merge_iou))
        return targets

    def _loss_of_best(self, patches: Tensor, boxes: Tensor, drawn: DrawnQueries, targets) -> dict[str, Tensor]:
        """OWLv2: the patches that promise most, and how far they keep it."""
        promised = self.objectness(patches)  # (B, N)
        best = promised.topk(math.ceil(self.kept_patches * promised.shape[1]), dim=1).indices  # (B, K)
        patches, boxes = (rows.gather(1, best[..., None].expand(-1, -1, rows.shape[-1])) for rows in (patches, boxes))
        logits = self.class_head(patches, drawn.embeddings, drawn.mask)  # (B, K, Q)
        losses = self.matching(logits, boxes, targets)
        kept = logits.detach().float().sigmoid().amax(dim=-1)  # (B, K)
        losses["loss_objectness"] = F.binary_cross_entropy_with_logits(promised.gather(1, best), kept)
        return losses

    # Test -------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample], rescale: bool = True
    ) -> Sequence[DetDataSample]:
        """Samples with `pred_instances`: boxes x1, y1, x2, y2 in pixels of the original image (of the input without
        `rescale`), scores in 0..1, labels."""
        logits, boxes = self._forward(batch_inputs)
        height, width = self.tower.square(batch_inputs).shape[-2:]
        corners = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
        results = [
            self._detections(*image, sample.metainfo, rescale)
            for *image, sample in zip(logits.sigmoid(), corners, batch_data_samples)
        ]
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _detections(self, scores: Tensor, corners: Tensor, about: dict[str, Any], rescale: bool) -> InstanceData:
        """The best of one image, (N, C) scores and (N, 4) boxes in pixels of the input."""
        flat = scores.flatten()
        best, place = flat.topk(min(self.max_per_img, len(flat)))
        place = place[best >= self.score_thr]
        patch, label = place // scores.shape[1], place % scores.shape[1]
        boxes = corners[patch]
        if rescale:
            horizontal, vertical = about.get("scale_factor", (1.0, 1.0))[:2]
            boxes = boxes / boxes.new_tensor([horizontal, vertical, horizontal, vertical])
        height, width = (about.get("ori_shape") if rescale else None) or about["img_shape"]
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        result = InstanceData(bboxes=boxes, scores=flat[place], labels=label)
        if self.nms_iou is None:
            return result
        return result[batched_nms(result.bboxes, result.scores, result.labels, self.nms_iou)]

    # Example images ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_image_queries(self, batch_inputs: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of what example images show, not of unit length.

        Args:
            batch_inputs: (B, 3, H, W) as the data preprocessor gives them.
            boxes: (B, 4) x1, y1, x2, y2 of the thing in pixels of these inputs; None takes the whole image.
        """
        patches, grid = self.extract_feat(batch_inputs)
        side = self.tower.square(batch_inputs).shape[-1]
        if boxes is None:
            boxes = batch_inputs.new_tensor([0, 0, batch_inputs.shape[-1], batch_inputs.shape[-2]]).expand(
                len(batch_inputs), 4
            )
        corners = box_convert(self.boxes(patches, grid), "cxcywh", "xyxy")  # (B, N, 4)
        chosen = []
        for embeddings, here, wanted in zip(self.class_head.embed(patches).float(), corners, boxes.to(corners) / side):
            overlaps = box_iou(wanted[None], here)[0]
            if not overlaps.any():
                overlaps = generalized_box_iou(wanted[None], here)[0]
            chosen.append(embeddings[most_typical(embeddings, overlaps)])
        return torch.stack(chosen)

    def set_image_queries(self, batch_inputs: Tensor, names: Sequence[str], boxes: Tensor | None = None) -> None:
        """Look for what example images show, until `set_classes` names texts again.

        Args:
            batch_inputs, boxes: as for `embed_image_queries`.
            names: B names; those of one name are averaged, each made unit (few-shot).

        Raises:
            ConfigError: not one name an image.
        """
        if len(names) != len(batch_inputs):
            raise ConfigError(f"set_image_queries: {len(names)} names for {len(batch_inputs)} images; give as many")
        training = self.training
        self.eval()
        rows = F.normalize(self.embed_image_queries(batch_inputs, boxes), dim=-1)  # (B, D)
        self.train(training)
        distinct = tuple(dict.fromkeys(names))
        means = [rows[[name == each for each in names]].mean(dim=0) for name in distinct]
        self.queries.take_embeddings(distinct, torch.stack(means))


def _check(bias: str, image_droplayer: float, text_droplayer: float, kept_patches: float) -> None:
    if bias not in BOX_BIASES:
        raise ConfigError(f"OWLViT: box_bias='{bias}' is not known; give one of {', '.join(BOX_BIASES)}")
    for name, rate in (("image_droplayer", image_droplayer), ("text_droplayer", text_droplayer)):
        if not 0 <= rate < 1:
            raise ConfigError(f"OWLViT: {name}={rate} is not usable; give 0 to below 1")
    if not 0 < kept_patches <= 1:
        raise ConfigError(f"OWLViT: kept_patches={kept_patches} is not usable; give a share above 0, 1 at most")


def _preprocessor(spec: str) -> dict[str, Any]:
    return detection_preprocessor(spec, pad_size_divisor=1, pad_mask=False)  # squares are made here


def _text_part(backbone, droplayer: float) -> TextPart:
    drop_layers(backbone.blocks("text"), droplayer)
    return TextPart(backbone)


def _tensor(boxes: Any) -> Tensor:
    """mmdet's box structures, or plain (n, 4)."""
    return boxes if isinstance(boxes, Tensor) else boxes.tensor
