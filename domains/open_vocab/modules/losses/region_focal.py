"""The classification loss of RegionCLIP's transfer to detection (2021, arXiv 2112.09106)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor, nn

from .....core.contracts import require
from .....registry import MODELS

SMALLEST = 1e-30  # below it (1 - p) ** gamma has no finite slope; the loss of such a region is 0


@MODELS.register_module()
class FocalScaledCrossEntropy(nn.Module):
    """Cross-entropy of each region times (1 - p) ** gamma, p the probability of its class; background weighed down.

    Base classes with many boxes are soon certain, and a certain region says little: so names that are never trained
    are forgotten less. The mean is over all regions, whatever their weights.

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        background_weight: of regions of the background, the last class; 0 or more.
        loss_weight: of the whole.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, gamma: float = 0.5, background_weight: float = 0.2, loss_weight: float = 1.0):
        super().__init__()
        for name, value in {"gamma": gamma, "background_weight": background_weight}.items():
            require(value >= 0, name, value, "give 0 or more")
        self.gamma, self.background_weight, self.loss_weight = gamma, background_weight, loss_weight

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **_,
    ) -> Tensor:
        """A scalar, or (N,) with `reduction_override="none"`.

        Args:
            cls_score: (N, C + 1) logits, the background last.
            label: (N,) class indices, C for the background.
            weight: (N,) of regions, or None.
            avg_factor: what the sum is divided by; N where it is not given.
        """
        logs = cls_score.float().log_softmax(dim=1)
        log_p = logs.gather(1, label[:, None])[:, 0]  # (N,)
        missing = (-torch.expm1(log_p)).clamp(min=SMALLEST)  # 1 - p
        loss = -log_p * missing**self.gamma if self.gamma else -log_p
        is_background = label == cls_score.shape[1] - 1
        loss = loss * torch.where(is_background, self.background_weight, 1.0)
        if weight is not None:
            loss = loss * weight
        loss = self.loss_weight * loss
        if reduction_override == "none":
            return loss
        if reduction_override == "sum":
            return loss.sum()
        return loss.sum() / (max(len(loss), 1) if avg_factor is None else avg_factor)


def box_distance(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean L1 distance (of the four, summed) and mean 1 - GIoU of boxes (N, 4), cx, cy, w, h in shares of the image."""
    if not len(predicted):
        return predicted.sum(), predicted.sum()
    distance = F.l1_loss(predicted, target, reduction="none").sum(dim=1).mean()
    corners = bbox_cxcywh_to_xyxy(predicted), bbox_cxcywh_to_xyxy(target)
    return distance, (1 - bbox_overlaps(*corners, mode="giou", is_aligned=True)).mean()


# DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518),
# section 3.4.

REGIONS = ("image", "boxes")


@MODELS.register_module()
class BoxScoreLoss(nn.Module):
    """Binary cross-entropy: a place scores 1 for the classes whose boxes cover it, 0 for the others.

    Args:
        region: "image", the mean over all places, as the paper writes it; or "boxes", over those inside any box, as
            released.
        loss_weight: what the loss is multiplied by.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, region: str = "image", loss_weight: float = 1.0):
        super().__init__()
        require(region in REGIONS, "region", region, f"there are {', '.join(REGIONS)}")
        require(loss_weight >= 0, "loss_weight", loss_weight, "give 0 or more")
        self.region, self.loss_weight = region, loss_weight

    def forward(self, logits: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], stride: float) -> Tensor:
        """A scalar.

        Args:
            logits: (B, C, h, w).
            boxes: of each image, (N, 4) as x1, y1, x2, y2 in pixels.
            labels: of each image, (N,) classes.
            stride: pixels from one place to the next.
        """
        logits = logits.float()
        target = torch.stack([_covered(*truth, stride, logits[0]) for truth in zip(boxes, labels)])
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.region == "image":
            return self.loss_weight * cost.mean()
        inside = target.amax(dim=1, keepdim=True).expand_as(target)
        return self.loss_weight * (cost * inside).sum() / inside.sum().clamp(min=1)


def _covered(boxes: Tensor, labels: Tensor, stride: float, like: Tensor) -> Tensor:
    """(C, h, w), as `like` is: 1 where a box of that class touches the place."""
    height, width = like.shape[1:]
    first, last = (boxes[:, :2] / stride).floor(), (boxes[:, 2:] / stride).ceil()  # (N, 2)
    row, column = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    in_rows = (row >= first[:, 1:]) & (row < last[:, 1:])  # (N, h)
    in_columns = (column >= first[:, :1]) & (column < last[:, :1])  # (N, w)
    target = torch.zeros_like(like)
    for label, rows, columns in zip(labels.tolist(), in_rows, in_columns):
        target[label] = torch.maximum(target[label], (rows[:, None] & columns).to(target.dtype))
    return target
