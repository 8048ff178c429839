"""SCLIP: in CLIP's last block each token attends to those whose query, or whose key, is like its own.

"SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference" (2023, arXiv 2312.01597).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.contracts import Backbone, Block, require
from .....registry import MODELS
from .attention_heads import as_map, join_heads, self_similarity, split_heads, with_last
from .training_free import TrainingFreeSegmentor, resize_to


def correlative_weights(query: Tensor, key: Tensor) -> Tensor:
    """Queries and keys (B, H, T, d) -> (B, H, T, T), the sum of two softmaxes: rows sum to 2."""
    return self_similarity(query) + self_similarity(key)


def correlative_attention(block: Block, normal: Tensor) -> Tensor:
    """Correlative self-attention of a block on normalised tokens (B, T, W) -> (B, T, W)."""
    query, key, value = split_heads(block, normal)
    return join_heads(block, correlative_weights(query, key) @ value)


def correlative_tokens(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, T, W) after the last block, its residuals and its MLP as ever.

    Raises:
        CapabilityError: the image tower has no transformer blocks.
    """
    return with_last(backbone, pixels, correlative_attention)


@MODELS.register_module()
class SCLIP(TrainingFreeSegmentor):
    """`vladapt.SCLIP`.

    Positions are resampled to the size of a window as everywhere in this package; the released code stretches them by a
    tenth of a patch more.

    Args:
        pamr_steps: refine the logits by the colours of the image, that often; 0 is off.
        pamr_dilations: see `refine_masks`.
        **options: of `TrainingFreeSegmentor`. Windows of 224 every 112 pixels of an image of short side 336, as
            published.

    Raises:
        CapabilityError: the image tower has no transformer blocks.
    """

    published_crop = 224

    def __init__(
        self, backbone: str, classes, *, pamr_steps: int = 0, pamr_dilations: Sequence[int] = (8, 16), **options
    ):
        require(pamr_steps >= 0, "pamr_steps", pamr_steps, "give 0 or more")
        dilations = tuple(pamr_dilations)
        require(bool(dilations) and min(dilations) >= 1, "pamr_dilations", dilations, "give pixels, 1 or more each")
        super().__init__(backbone, classes, **options)
        self.pamr_steps, self.pamr_dilations = pamr_steps, dilations

    def needs_of(self, backbone: Backbone) -> tuple[str, ...]:
        return ("image_blocks",)

    def dense_features(self, pixels: Tensor) -> Tensor:
        tower = self.tower(pixels.device)
        grid = tower.image_grid(pixels)
        return as_map(tower.project_patches(correlative_tokens(tower, pixels))[:, : grid[0] * grid[1]], grid)

    def refine(self, image: Tensor, logits: Tensor) -> Tensor:
        if not self.pamr_steps:
            return logits
        pixels = resize_to(image[None], tuple(logits.shape[-2:]))
        return refine_masks(pixels, logits[None], self.pamr_steps, self.pamr_dilations)[0]


# "Single-Stage Semantic Segmentation from Image Labels" (2020, arXiv 2005.08104).

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
    # The centre counts once per dilation, as one of the nine of each.
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
