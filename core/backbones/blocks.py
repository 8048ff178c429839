"""Transformer blocks of any library under one shape: attention and MLP with their norms before or after them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Block


def attend(qkv: Tensor, num_heads: int, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """(B, T, 3W) stacked queries, keys and values -> (B, T, W), without the weight matrix in memory.

    Args:
        mask: (B, T) bool, keys that may be looked at.
        causal: each position looks at itself and those before it; `mask` must then be None.
    """
    batch, length, width = qkv.shape
    query, key, value = qkv.view(batch, length, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)
    seen = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)  # (B, H, T, W / H)
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def _unscaled(x: Tensor) -> Tensor:
    return x


def pre_norm_block(
    *,
    ln_1: nn.Module,
    qkv: Callable[[Tensor], Tensor],
    out: nn.Module,
    ln_2: nn.Module,
    mlp: Callable[[Tensor], Tensor],
    num_heads: int,
    scale_1: Callable[[Tensor], Tensor] = _unscaled,
    scale_2: Callable[[Tensor], Tensor] = _unscaled,
) -> Block:
    """A block that normalises what goes into attention and MLP (ViT, GPT). `scale_1`, `scale_2` are layer scales."""

    def forward(x, *, mask=None, causal=False, attention=None):
        normal = ln_1(x)
        mixed = out(attend(qkv(normal), num_heads, mask, causal)) if attention is None else attention(normal)
        x = x + scale_1(mixed)
        return x + scale_2(mlp(ln_2(x)))

    return Block(ln_1=ln_1, qkv=qkv, out=out, ln_2=ln_2, mlp=mlp, num_heads=num_heads, forward=forward)


def post_norm_block(
    *,
    ln_1: nn.Module,
    qkv: Callable[[Tensor], Tensor],
    out: nn.Module,
    ln_2: nn.Module,
    mlp: Callable[[Tensor], Tensor],
    num_heads: int,
) -> Block:
    """A block that normalises the sums (BERT). A replaced attention is given x as the block is."""

    def forward(x, *, mask=None, causal=False, attention=None):
        mixed = out(attend(qkv(x), num_heads, mask, causal)) if attention is None else attention(x)
        x = ln_1(x + mixed)
        return ln_2(x + mlp(x))

    return Block(ln_1=ln_1, qkv=qkv, out=out, ln_2=ln_2, mlp=mlp, num_heads=num_heads, forward=forward)
