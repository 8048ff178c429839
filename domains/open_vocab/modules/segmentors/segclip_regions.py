"""From groups of patches to classes of pixels, as SegCLIP is evaluated (Luo et al., 2022, arXiv 2211.14813)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def group_scores(groups: Tensor, image: Tensor, texts: Tensor, scale: Tensor | float, likely: int = 5) -> Tensor:
    """How much each group is each class: its probability among all, times that among the image's likeliest ones.

    Args:
        groups: (B, G, D).
        image: (B, D).
        texts: (C, D) unit rows.
        scale: what cosines are multiplied by.
        likely: classes that the whole image may have.

    Returns:
        (B, G, C).
    """
    logits = scale * F.normalize(groups.float(), dim=-1) @ texts.T  # (B, G, C)
    whole = scale * F.normalize(image.float(), dim=-1) @ texts.T  # (B, C)
    chosen = whole.topk(min(likely, len(texts)), dim=-1).indices
    out = torch.ones_like(whole, dtype=torch.bool).scatter(1, chosen, False)[:, None]
    return logits.masked_fill(out, -torch.inf).softmax(dim=-1) * logits.softmax(dim=-1)


def paint(scores: Tensor, soft: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Each pixel gets the scores of its group: the best one once assignments are resized to the image.

    Args:
        scores: (B, G, C).
        soft: (B, G, h * w) assignments.
        grid: (h, w).
        size: (H, W).

    Returns:
        (B, C, H, W).
    """
    fine = F.interpolate(soft.unflatten(2, grid), size=size, mode="bilinear", align_corners=False)  # (B, G, H, W)
    owner = fine.argmax(dim=1).flatten(1)  # (B, H * W)
    painted = scores.gather(1, owner[..., None].expand(-1, -1, scores.shape[-1]))  # (B, H * W, C)
    return painted.transpose(1, 2).unflatten(2, size)


def with_background(scores: Tensor, index: int, threshold: float) -> Tensor:
    """(C - 1, H, W) scores of an image -> (C, H, W): 1 for the background where no class reaches the threshold.

    Where no class of the whole image does, the best score of the image is the threshold.
    """
    best = scores.amax(dim=0)
    background = (best < torch.clamp(best.max(), max=threshold)).to(scores.dtype)
    return torch.cat([scores[:index], background[None], scores[index:]])
