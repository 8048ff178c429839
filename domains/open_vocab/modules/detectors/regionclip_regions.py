"""Features of regions from an image tower's map (RegionCLIP, 2021, arXiv 2112.09106), in the space of its texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from .....core.contracts.backbone import Backbone
from ..backbones.clip_c4 import before_last_stage, modified_resnet, pool_regions, pool_side

DENSE_ROI_SIZE = 7


def region_features(backbone: Backbone, pixels: Tensor, boxes: list[Tensor]) -> list[Tensor]:
    """Unit features of the regions of each image.

    CLIP's ResNets, as published: RoIAlign on the third stage's map, then the fourth stage and the attention pool on
    each region, which are given a map of the size they are used to. Other towers: RoIAlign on the map of their image
    tokens, then the mean.

    Args:
        backbone: its image tower; gradients flow where its parameters want them.
        pixels: (B, 3, H, W).
        boxes: B tensors (N_i, 4) of x1, y1, x2, y2 in pixels.

    Returns:
        B tensors (N_i, D) float32.
    """
    visual = modified_resnet(backbone)
    if visual is None:
        features = _dense_regions(backbone, pixels, boxes)
    else:
        cells = before_last_stage(visual, pixels.to(backbone.device))
        crops = aligned(cells, pixels.shape[-2:], boxes, 2 * pool_side(visual.attnpool))  # (R, C, 2s, 2s)
        features = pool_regions(visual.attnpool, visual.layer4(crops))
    return list(F.normalize(features.float(), dim=1).split([len(rows) for rows in boxes]))


def aligned(cells: Tensor, size: tuple[int, int], boxes: list[Tensor], side: int) -> Tensor:
    """RoIAlign without rounding: maps (B, W, h, w) of images of `size`, boxes in pixels -> (R, W, side, side)."""
    cells = cells.float()  # coordinates too: 16 bits would move boxes by pixels
    scale = cells.new_tensor([cells.shape[-1] / size[1], cells.shape[-2] / size[0]]).repeat(2)
    rois = [rows.to(cells) * scale for rows in boxes]
    return roi_align(cells, rois, (side, side), spatial_scale=1.0, sampling_ratio=-1, aligned=True)


def _dense_regions(backbone: Backbone, pixels: Tensor, boxes: list[Tensor]) -> Tensor:
    pixels = whole_patches(backbone, pixels)
    tokens, (height, width) = backbone.image_tokens(pixels)
    cells = tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)  # (B, D, h, w)
    return aligned(cells, pixels.shape[-2:], boxes, DENSE_ROI_SIZE).mean(dim=(2, 3))


def whole_patches(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Zeros on the right and below, up to whole patches of a transformer."""
    if "image_blocks" not in backbone.capabilities:
        return pixels
    patch = backbone.image_stride
    return F.pad(pixels, (0, -pixels.shape[-1] % patch, 0, -pixels.shape[-2] % patch))


def whole_boxes(samples: list, pixels: Tensor) -> list[Tensor]:
    """Of each image the box that holds all of it, (1, 4), without what pads it."""
    sizes = [sample.get("img_shape", pixels.shape[-2:])[:2] for sample in samples]
    return [torch.tensor([[0.0, 0.0, width, height]], device=pixels.device) for height, width in sizes]
