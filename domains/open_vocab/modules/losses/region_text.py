"""The classification loss of YOLO-World."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from .....registry import MODELS


@MODELS.register_module()
class RegionTextContrastiveLoss(nn.Module):
    """Binary cross-entropy between regions' similarities to names and what the assignment says of them.

    "YOLO-World: Real-Time Open-Vocabulary Object Detection", 2024, arXiv 2401.17270. A region that is assigned to an
    object should be as alike the object's name as its box fits it (0 to 1), and not alike any other name; a region
    without an object is like none.

    Args:
        use_sigmoid: what mm's heads ask; always True.
        reduction: "none", "mean" or "sum".
        loss_weight: the loss is multiplied by.
    """

    def __init__(self, use_sigmoid: bool = True, reduction: str = "mean", loss_weight: float = 1.0):
        super().__init__()
        self.use_sigmoid, self.reduction, self.loss_weight = True, reduction, loss_weight

    def forward(
        self,
        similarities: Tensor,
        assigned: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            similarities: (N, C) logits.
            assigned: (N,) numbers of names, C for none, and (N,) how well the box fits.
            weight: (N,) of each region.
            avg_factor: what the sum is divided by, in place of N.
        """
        labels, fits = assigned
        targets = torch.zeros_like(F.pad(similarities, (0, 1)))  # the last column is of regions without an object
        targets[torch.arange(len(labels), device=labels.device), labels] = fits.to(targets.dtype)
        loss = F.binary_cross_entropy_with_logits(similarities, targets[:, :-1], reduction="none").sum(dim=1)
        reduced = weight_reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)
        return self.loss_weight * reduced
