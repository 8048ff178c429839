"""How far predicted boxes are from true ones."""

from __future__ import annotations

import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor


def box_distance(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean L1 distance (of the four, summed) and mean 1 - GIoU of boxes (N, 4), cx, cy, w, h in shares of the image."""
    if not len(predicted):
        return predicted.sum(), predicted.sum()
    distance = F.l1_loss(predicted, target, reduction="none").sum(dim=1).mean()
    corners = bbox_cxcywh_to_xyxy(predicted), bbox_cxcywh_to_xyxy(target)
    return distance, (1 - bbox_overlaps(*corners, mode="giou", is_aligned=True)).mean()
