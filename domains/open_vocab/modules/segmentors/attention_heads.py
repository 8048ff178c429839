"""The last attention of an image tower, opened: what its heads see, and the tower with another attention there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .....core.contracts.backbone import Backbone, Block

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
