"""Pixel-adaptive mask refinement: masks drawn to where the colours of the image change.

"Single-Stage Semantic Segmentation from Image Labels" (2020, arXiv 2005.08104).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
CONTRAST = 0.1  # of the local standard deviation: the width of the kernel
TINY = 1e-8


def refine_masks(images: Tensor, masks: Tensor, steps: int, dilations: Sequence[int] = (8, 16)) -> Tensor:
    """Each pixel takes, `steps` times, the mean of its neighbours, weighted by how alike its colour is theirs.

    Args:
        images: (B, 3, H, W), in any normalisation.
        masks: (B, C, H, W), scores or probabilities.
        steps: how often.
        dilations: distances, in pixels, at which each has its 8 neighbours; the image goes on as at its edge.

    Returns:
        (B, C, H, W).
    """
    weights = _affinities(images.float(), dilations)  # (B, 8 * len(dilations), H, W)
    masks = masks.float()
    for _ in range(steps):
        moved = torch.zeros_like(masks)
        for index, neighbour in enumerate(_shifted(masks, dilations)):
            moved.addcmul_(neighbour, weights[:, index : index + 1])
        masks = moved
    return masks


def _affinities(images: Tensor, dilations: Sequence[int]) -> Tensor:
    around = torch.stack(list(_shifted(images, dilations)), dim=2)  # (B, 3, 8 * len(dilations), H, W)
    centre = images[:, :, None]
    # The centre counts once a dilation, as one of the nine of each.
    spread = torch.cat([around, centre.expand(-1, -1, len(dilations), -1, -1)], dim=2).std(dim=2, keepdim=True)
    unlike = (around - centre).abs() / (TINY + CONTRAST * spread)
    return torch.softmax(-unlike.mean(dim=1), dim=1)


def _shifted(x: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """(B, C, H, W) as each neighbour sees it: at a pixel, the value of its neighbour."""
    height, width = x.shape[-2:]
    for reach in dilations:
        wide = F.pad(x, (reach,) * 4, mode="replicate")
        for dy, dx in NEIGHBOURS:
            top, left = reach * (1 + dy), reach * (1 + dx)
            yield wide[..., top : top + height, left : left + width]
