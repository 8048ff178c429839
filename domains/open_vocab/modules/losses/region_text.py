"""Regions against texts: each picks its own among all of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor

from .....core.losses._info_nce import info_nce


def region_text_contrast(
    regions: Tensor, texts: Tensor, scale: Tensor | float, said: Sequence[str], label_smoothing: float = 0.0
) -> Tensor:
    """CLIP's symmetric cross-entropy of regions and their texts; regions that say the same are each other's positives.

    Where all texts differ it is the loss as published; where some are equal (class names) the published loss would
    push a region away from its own words.

    Args:
        regions: (N, D) unit rows, N at least 1. The batch is that of this process: ranks hold unlike numbers.
        texts: (N, D) unit rows, row i of region i.
        scale: what cosines are multiplied by.
        said: N texts, to know which are the same.
        label_smoothing: share of the target spread over all N, 0 to below 1.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(said))}
    groups = torch.tensor([numbers[text] for text in said], device=regions.device)
    same = (groups[:, None] == groups[None, :]).to(regions)  # (N, N)
    share = same / same.sum(dim=1, keepdim=True)
    return info_nce(regions, texts, scale, targets=(1 - label_smoothing) * share + label_smoothing / len(said))


def box_distance(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean L1 distance (of the four, summed) and mean 1 - GIoU of boxes (N, 4), cx, cy, w, h in shares of the image."""
    if not len(predicted):
        return predicted.sum(), predicted.sum()
    distance = F.l1_loss(predicted, target, reduction="none").sum(dim=1).mean()
    corners = bbox_cxcywh_to_xyxy(predicted), bbox_cxcywh_to_xyxy(target)
    return distance, (1 - bbox_overlaps(*corners, mode="giou", is_aligned=True)).mean()
