"""The last attention of an image tower, opened: what its heads see, and the tower with another attention there."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.contracts import Backbone, Block
from .....core.errors import ConfigError

Attention = Callable[[Block, Tensor], Tensor]
"""(block, normalised tokens (B, T, W)) -> (B, T', W)."""


def split_heads(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised tokens (B, T, W) -> queries, keys and values, (B, H, T, W / H) each."""
    parts = block.qkv(x).unflatten(-1, (3, block.num_heads, -1))  # (B, T, 3, H, W / H)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    return query, key, value


def join_heads(block: Block, mixed: Tensor) -> Tensor:
    """(B, H, T, W / H) -> (B, T, W), through the output projection."""
    return block.out(mixed.transpose(1, 2).flatten(2))


def self_similarity(x: Tensor) -> Tensor:
    """softmax(x x^T / sqrt(d)) of (B, H, T, d) -> (B, H, T, T)."""
    return torch.softmax(x @ x.transpose(-1, -2) * x.shape[-1] ** -0.5, dim=-1)


def until_last(backbone: Backbone, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, T, W): what goes into the last block.

    Raises:
        CapabilityError: the image tower has no transformer blocks.
    """
    backbone.need("image_blocks")
    return backbone.run_blocks("image", backbone.embed_image(pixels), 0, len(backbone.blocks("image")) - 1)


def with_last(backbone: Backbone, pixels: Tensor, attention: Attention) -> Tensor:
    """(B, 3, H, W) -> (B, T, W) after the last block, its attention replaced; its residuals and its MLP stay."""
    x, last = until_last(backbone, pixels), len(backbone.blocks("image")) - 1
    return backbone.run_blocks("image", x, last, attention=lambda _, block, normal: attention(block, normal))


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w, D) -> (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


# "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation" (2024, arXiv 2408.04883).

TOKENS = "tokens"


def proxy_attention(features: Tensor, beta: float, gamma: float, over_batch: bool = False) -> Tensor:
    """Row j of the result says how much of each cell cell j takes: of those more alike it than average, a softmax.

    Args:
        features: (B, C, h, w) of the proxy.
        beta: times the mean cosine is what a cosine must exceed to count.
        gamma: sharpness of the softmax.
        over_batch: one mean of the whole batch, as an early release has it: an image is then judged by its neighbours.

    Returns:
        (B, P, P), P = h * w, rows sum to 1.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.flatten(2).float(), dim=1)  # (B, C, P)
        cosines = unit.transpose(1, 2) @ unit  # (B, P, P)
        mean = cosines.mean() if over_batch else cosines.mean(dim=(1, 2), keepdim=True)
        excess = gamma * (cosines - beta * mean)
        # Where all cells are much alike none exceeds the mean enough, not even itself: each then keeps its own value.
        alone = torch.eye(excess.shape[-1], dtype=torch.bool, device=excess.device)
        return excess.masked_fill((excess < 0) & ~alone, -torch.inf).softmax(dim=-1)


def proxy_features(backbone: Backbone, pixels: Tensor, layer: int | str) -> Tensor:
    """The features of a proxy, (B, C, h, w).

    Args:
        pixels: (B, 3, H, W), normalised for this backbone.
        layer: index of one of its feature maps, or "tokens": patches in the space that it shares with text.

    Raises:
        ConfigError: it has no feature map of that index.
        CapabilityError: it has no such features.
    """
    if layer == TOKENS:
        tokens, grid = backbone.image_tokens(pixels)
        return tokens.transpose(1, 2).unflatten(2, grid)
    maps = backbone.feature_maps(pixels)
    if not isinstance(layer, int) or not -len(maps) <= layer < len(maps):
        raise ConfigError(
            f"option proxy_layer={layer!r} is not usable; backbone '{backbone.spec}' has feature maps "
            f"{-len(maps)} to {len(maps) - 1}, and '{TOKENS}'"
        )
    return maps[layer]


def renormalize(pixels: Tensor, given: Backbone, wanted: Backbone) -> Tensor:
    """Pixels (B, 3, H, W) normalised for one backbone, normalised for another."""

    def three(values) -> Tensor:
        return pixels.new_tensor(values).view(1, 3, 1, 1)

    raw = pixels * three(given.image_std) + three(given.image_mean)
    return (raw - three(wanted.image_mean)) / three(wanted.image_std)
