"""SegEarth-OV: pictures from above by words, nothing trained on them: features upsampled, the global bias removed.

"SegEarth-OV: Towards Training-Free Open-Vocabulary Segmentation for Remote Sensing Images" (2024, arXiv 2410.01768).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ......core.backbones import load_backbone
from ......core.contracts import Backbone, Block, require
from ......registry import MODELS
from ..attention_heads import as_map, join_heads, self_similarity, split_heads, until_last
from ..training_free import TrainingFreeSegmentor, cosine_maps
from .upsampler import load_upsampler

BICUBIC, NONE = "bicubic", "none"


def summed_attention(block: Block, normal: Tensor) -> Tensor:
    """Normalised tokens (B, T, W) -> (B, T, W): values mixed by the sum of three softmaxes, of queries with queries,
    keys with keys and values with values."""
    query, key, value = split_heads(block, normal)
    weights = self_similarity(query) + self_similarity(key) + self_similarity(value)  # rows sum to 3
    return join_heads(block, weights @ value)


def mixed_tokens(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, T, W): the attention of the last block alone, without its residuals and its MLP.

    Raises:
        CapabilityError: the image tower has no transformer blocks.
    """
    last = backbone.blocks("image")[-1]
    return summed_attention(last, last.ln_1(until_last(backbone, pixels)))


def without_global(logits: Tensor, whole: Tensor, words: Tensor, weight: float) -> Tensor:
    """Cosines of places, moved by those of the whole image.

    Args:
        logits: (B, Q, h, w).
        whole: (B, D) the image as the tower pools it.
        words: (Q, D) unit.
        weight: of the whole; negative takes away what all places have of it.
    """
    of_whole = F.normalize(whole.float(), dim=-1) @ words.to(logits).T  # (B, Q)
    return logits + weight * of_whole[..., None, None]


@MODELS.register_module()
class SegEarthOV(TrainingFreeSegmentor):
    """`vladapt.SegEarthOV`.

    Positions are resampled to the size of a window as everywhere in this package. The upsampler makes 16 pixels of a
    patch each way; where a patch has another size its map is resized to the window, which the released code cannot.

    Args:
        upsampler: file of weights of SimFeatUp's jbu_one; "bicubic", where there are none; or "none" for logits on the
            grid of patches.
        global_weight: of the cosine of the whole image, published -0.3.
        long_side: pixels that the longer side of an image is brought to; None for `short_side`.
        **options: of `TrainingFreeSegmentor`. Windows of 224 every 112 pixels, logits times 50, as published.

    Raises:
        CapabilityError: the image tower has no transformer blocks.
        DataError: the file is not one of this upsampler for features of this width.
    """

    published_crop = 224

    def __init__(
        self,
        backbone: str,
        classes,
        *,
        upsampler: str = BICUBIC,
        global_weight: float = -0.3,
        long_side: int | None = 448,
        logit_scale: float = 50.0,
        short_side: int | None = None,
        **options,
    ):
        require(abs(global_weight) <= 10, "global_weight", global_weight, "give a number from -10 to 10")
        require(long_side is None or long_side >= 1, "long_side", long_side, "give pixels, or None")
        one = long_side is None or short_side is None
        require(one, "short_side", short_side, "give long_side=None with it, an image has one size")
        super().__init__(backbone, classes, logit_scale=logit_scale, short_side=short_side, **options)
        self.upsampler, self.global_weight, self.long_side = upsampler, global_weight, long_side
        if upsampler not in (BICUBIC, NONE):
            load_upsampler(upsampler, load_backbone(backbone, device="cpu").embed_dim, "cpu")

    def needs_of(self, backbone: Backbone) -> tuple[str, ...]:
        return ("image_blocks",)

    def dense_features(self, pixels: Tensor) -> Tensor:
        return self._features(pixels)[0]

    def query_logits(self, pixels: Tensor) -> Tensor:
        features, whole = self._features(pixels)
        return without_global(cosine_maps(features, self.queries()), whole, self.queries(), self.global_weight)

    def ratio(self, height: int, width: int) -> float:
        return super().ratio(height, width) if self.long_side is None else self.long_side / max(height, width)

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h', w') of places, upsampled, and (B, D) of the whole."""
        tower = self.tower(pixels.device)
        grid, tokens = tower.image_grid(pixels), mixed_tokens(tower, pixels)
        places = as_map(tower.project_patches(tokens)[:, : grid[0] * grid[1]], grid)
        return self._upsampled(places, pixels), tower.pool_image(tokens, normalize=False)

    def _upsampled(self, features: Tensor, pixels: Tensor) -> Tensor:
        if self.upsampler == NONE:
            return features
        with torch.autocast(pixels.device.type, enabled=False):
            features, pixels = features.float(), pixels.float()
            if self.upsampler == BICUBIC:
                return F.interpolate(features, size=pixels.shape[-2:], mode="bicubic", align_corners=False)
            return load_upsampler(self.upsampler, features.shape[1], str(pixels.device))(features, pixels)
