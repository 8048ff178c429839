"""ProxyCLIP: CLIP's last values, mixed by how alike the patches of another model are.

"ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation" (2024, arXiv 2408.04883).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.backbones import load_backbone
from .....core.contracts import Backbone, require
from .....registry import MODELS
from ...vocabulary import text_backbone
from .attention_heads import TOKENS, as_map, proxy_attention, proxy_features, renormalize, until_last
from .training_free import TrainingFreeSegmentor


def proxied_features(
    backbone: Backbone,
    pixels: Tensor,
    proxy: Tensor,
    *,
    beta: float = 1.2,
    gamma: float = 3.0,
    over_batch: bool = False,
) -> Tensor:
    """Dense features in the space of text, on the grid of the proxy.

    Of a transformer the values of the last block are mixed, and go on without its residuals and its MLP. Where there is
    no block the tokens are mixed, which is the same for CLIP's ResNet: its output projection is linear.

    Args:
        pixels: (B, 3, H, W).
        proxy: (B, C, h, w) features of the proxy for the same images.
        beta, gamma, over_batch: see `proxy_attention`.

    Returns:
        (B, D, h, w).
    """
    weights, grid = proxy_attention(proxy, beta, gamma, over_batch), tuple(proxy.shape[-2:])
    if "image_blocks" not in backbone.capabilities:
        tokens, tower_grid = backbone.image_tokens(pixels)
        return as_map(weights @ _on_grid(tokens, tower_grid, grid), grid)
    last = backbone.blocks("image")[-1]
    tower_grid, prefix = backbone.image_grid(pixels), backbone.image_prefix
    values = last.qkv(last.ln_1(until_last(backbone, pixels))).chunk(3, dim=-1)[2]  # (B, T, W)
    patches = values[:, prefix : prefix + tower_grid[0] * tower_grid[1]]
    mixed = last.out(weights.to(patches) @ _on_grid(patches, tower_grid, grid))  # one attention for all heads
    before = mixed.new_zeros(len(mixed), prefix, mixed.shape[-1])
    return as_map(backbone.project_patches(torch.cat([before, mixed], dim=1)), grid)


def _on_grid(tokens: Tensor, present: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """(B, P, W) on one grid -> (B, P', W) on another, bilinear."""
    if present == wanted:
        return tokens
    moved = F.interpolate(as_map(tokens, present), size=wanted, mode="bilinear", align_corners=False)
    return moved.flatten(2).transpose(1, 2)


@MODELS.register_module()
class ProxyCLIP(TrainingFreeSegmentor):
    """`vladapt.ProxyCLIP`.

    The proxy's mean cosine is that of each window; `over_batch=True` is an early release's, in which the other windows
    and images of the batch have a say.

    Args:
        proxy: spec of the backbone whose features say what is alike; published with DINO's ViT-B/8 and others.
        proxy_layer: index of one of its feature maps, the last by default, or "tokens".
        beta, gamma: see `proxy_attention`.
        over_batch: see above. Results then depend on `windows_per_batch`.
        **options: of `TrainingFreeSegmentor`. Windows of 336 every 112 pixels of an image of short side 336, as
            published.

    Raises:
        ConfigError: the proxy has no such feature map. CapabilityError: it gives no features of places.
    """

    published_crop = 336

    def __init__(
        self,
        backbone: str,
        classes,
        *,
        proxy: str,
        proxy_layer: int | str = -1,
        beta: float = 1.2,
        gamma: float = 3.0,
        over_batch: bool = False,
        **options,
    ):
        require(beta >= 0, "beta", beta, "give 0 or more")
        require(gamma > 0, "gamma", gamma, "give a positive number")
        load_backbone(proxy, device="cpu").need("image_tokens" if proxy_layer == TOKENS else "feature_maps")
        super().__init__(backbone, classes, **options)
        self.proxy_spec, self.proxy_layer = proxy, proxy_layer
        self.beta, self.gamma, self.over_batch = beta, gamma, over_batch

    def patch_multiple(self, device: torch.device) -> int:
        return math.lcm(self.tower(device).image_stride, text_backbone(self.proxy_spec, str(device)).image_stride)

    def dense_features(self, pixels: Tensor) -> Tensor:
        tower, proxy = self.tower(pixels.device), text_backbone(self.proxy_spec, str(pixels.device))
        features = proxy_features(proxy, renormalize(pixels, tower, proxy), self.proxy_layer)
        return proxied_features(tower, pixels, features, beta=self.beta, gamma=self.gamma, over_batch=self.over_batch)
