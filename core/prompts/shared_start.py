"""Prompts that begin alike, through a causal text tower: what they share is computed once, not once a class.

In a causal tower no token sees what follows it, so the states of a shared beginning are the same in all prompts. C
prompts of P shared and S own tokens cost P + C * S tokens instead of C * (P + S), forward and backward, with the same
result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone, Block


def encode_sharing(backbone: Backbone, embeddings: Tensor, mask: Tensor, shared: int, normalize: bool) -> Tensor:
    """What `backbone.encode_prompt(prompts, mask, normalize)` gives of each group, (G, C, D); the tower is causal.

    Args:
        embeddings: (G, C, L, W) before positions, the first `shared` places alike in all C rows of a group.
        mask: (C, L) bool, of every group.
        shared: P, at least 1 and below L.
    """
    groups, prompts, length, width = embeddings.shape
    mask = mask.repeat(groups, 1)  # (G * C, L)
    x = backbone.embed_prompt(embeddings.flatten(0, 1), mask).unflatten(0, (groups, prompts))  # (G, C, L, W)
    packed = torch.cat([x[:, 0, :shared], x[:, :, shared:].flatten(1, 2)], dim=1)  # (G, P + C * S, W)
    seen = torch.ones(length - shared, length, dtype=torch.bool, device=x.device).tril(shared)  # (S, P + S)

    def attention(index: int, block: Block, normal: Tensor) -> Tensor:
        return block.out(_attend(block.qkv(normal), block.num_heads, shared, prompts, seen))

    packed = backbone.run_blocks("text", packed, attention=attention)
    start = packed[:, None, :shared].expand(-1, prompts, -1, -1)  # (G, C, P, W)
    whole = torch.cat([start, packed[:, shared:].view(groups, prompts, length - shared, width)], dim=2)
    return backbone.pool_text(whole.flatten(0, 1), mask, normalize).unflatten(0, (groups, prompts))


def is_causal(backbone: Backbone, embeddings: Tensor) -> bool:
    """Whether tokens of the text tower see only what stands before them: found by changing the last one.

    Args:
        embeddings: (1, L, W) of any prompt.
    """
    if "text_blocks" not in backbone.capabilities or embeddings.shape[1] < 2 or _has_tokens_inside(backbone):
        return False
    with torch.no_grad():
        x = backbone.embed_prompt(embeddings, embeddings.new_ones(embeddings.shape[:2], dtype=torch.bool))
        changed = torch.cat([x[:, :-1], x[:, -1:].roll(1, dims=-1)], dim=1)
        before, after = (backbone.run_blocks("text", version)[:, :-1] for version in (x, changed))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def _has_tokens_inside(backbone: Backbone) -> bool:
    """Whether learned tokens hang in the text tower: they stand before what is shared here."""
    return getattr(getattr(backbone, "prompts", None), "text", None) is not None


def _attend(qkv: Tensor, num_heads: int, shared: int, prompts: int, seen: Tensor) -> Tensor:
    """(G, P + C * S, 3W) -> (G, P + C * S, W): a start attends to itself, each end to its start and to itself."""
    split = qkv.unflatten(-1, (3, num_heads, -1))  # (G, T, 3, H, d)
    start = split[:, :shared].permute(2, 0, 3, 1, 4)  # (3, G, H, P, d)
    ends = split[:, shared:].unflatten(1, (prompts, -1)).permute(3, 0, 1, 4, 2, 5)  # (3, G, C, H, S, d)
    before = start[1:, :, None].expand(-1, -1, prompts, -1, -1, -1)
    key, value = torch.cat([before, ends[1:]], dim=4).flatten(1, 2)  # each (G * C, H, P + S, d)
    mixed_start = F.scaled_dot_product_attention(*start, is_causal=True)  # (G, H, P, d)
    mixed_ends = F.scaled_dot_product_attention(ends[0].flatten(0, 1), key, value, attn_mask=seen)  # (G * C, H, S, d)
    mixed_ends = mixed_ends.unflatten(0, (-1, prompts)).permute(0, 1, 3, 2, 4)  # (G, C, S, H, d)
    return torch.cat([mixed_start.transpose(1, 2).flatten(2), mixed_ends.flatten(3).flatten(1, 2)], dim=1)
