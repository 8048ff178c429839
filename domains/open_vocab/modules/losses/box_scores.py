"""Score maps taught by boxes, where no masks are given: the auxiliary loss of DenseCLIP for detection.

DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518),
section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts.adapter import require
from .....registry import MODELS

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
        target = torch.stack([covered(*found, stride, logits[0]) for found in zip(boxes, labels)])
        cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.region == "image":
            return self.loss_weight * cost.mean()
        inside = target.amax(dim=1, keepdim=True).expand_as(target)
        return self.loss_weight * (cost * inside).sum() / inside.sum().clamp(min=1)


def covered(boxes: Tensor, labels: Tensor, stride: float, like: Tensor) -> Tensor:
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
