"""Features of regions from an image tower's map (RegionCLIP, 2021, arXiv 2112.09106), in the space of its texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from .....core.contracts.backbone import Backbone
from .....core.contracts.errors import ConfigError

DENSE_ROI_SIZE = 7
STAGES = ("layer1", "layer2", "layer3", "layer4")


def modified_resnet(backbone: Backbone) -> nn.Module | None:
    """CLIP's ResNet with an attention pool, or None where the image tower is something else."""
    visual = getattr(backbone.model, "visual", None)
    return visual if all(hasattr(visual, part) for part in (*STAGES, "attnpool", "stem")) else None


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
        crops = aligned(cells, pixels.shape[-2:], boxes, 2 * pool_side(visual))  # (R, W, 2s, 2s)
        features = pooled(visual, visual.layer4(crops)) if len(crops) else crops.new_zeros(0, backbone.embed_dim)
    return list(F.normalize(features.float(), dim=1).split([len(rows) for rows in boxes]))


def before_last_stage(visual: nn.Module, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, W, H / 16, W / 16), what C4 detectors take regions from."""
    return visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels))))


def pool_side(visual: nn.Module) -> int:
    """Side of the map that the attention pool has positions for."""
    return round((len(visual.attnpool.positional_embedding) - 1) ** 0.5)


def pooled(visual: nn.Module, crops: Tensor) -> Tensor:
    """(R, W, s, s) -> (R, D)."""
    side = pool_side(visual)
    if tuple(crops.shape[-2:]) != (side, side):
        raise ConfigError(
            f"regions of {tuple(crops.shape[-2:])} do not fit the attention pool, which takes {side} x {side}; "
            f"give the RoI extractor output_size={2 * side}"
        )
    return visual.attnpool(crops)


def aligned(cells: Tensor, size: tuple[int, int], boxes: list[Tensor], side: int) -> Tensor:
    """RoIAlign without rounding: maps (B, W, h, w) of images of `size`, boxes in pixels -> (R, W, side, side)."""
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
