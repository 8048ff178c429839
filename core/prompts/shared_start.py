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
    """What `backbone.encode_prompt(embeddings, mask, normalize)` gives, (C, D), where the tower is causal.

    Args:
        embeddings: (C, L, W) before positions, the first `shared` places alike in all rows.
        mask: (C, L) bool.
        shared: P, at least 1 and below L.
    """
    prompts, length, width = embeddings.shape
    x = backbone.embed_prompt(embeddings, mask)  # (C, L, W)
    packed = torch.cat([x[0, :shared], x[:, shared:].flatten(0, 1)])[None]  # (1, P + C * S, W)
    seen = torch.ones(length - shared, length, dtype=torch.bool, device=x.device).tril(shared)  # (S, P + S)

    def attention(index: int, block: Block, normal: Tensor) -> Tensor:
        return block.out(_attend(block.qkv(normal)[0], block.num_heads, shared, prompts, seen)[None])

    packed = backbone.run_blocks("text", packed, attention=attention)[0]
    start = packed[:shared].expand(prompts, -1, -1)
    whole = torch.cat([start, packed[shared:].view(prompts, length - shared, width)], dim=1)  # (C, L, W)
    return backbone.pool_text(whole, mask, normalize)


def is_causal(backbone: Backbone, embeddings: Tensor) -> bool:
    """Whether tokens of the text tower see only what stands before them: found by changing the last one.

    Args:
        embeddings: (1, L, W) of any prompt.
    """
    if "text_blocks" not in backbone.capabilities or embeddings.shape[1] < 2:
        return False
    with torch.no_grad():
        x = backbone.embed_prompt(embeddings, embeddings.new_ones(embeddings.shape[:2], dtype=torch.bool))
        changed = torch.cat([x[:, :-1], x[:, -1:].roll(1, dims=-1)], dim=1)
        before, after = (backbone.run_blocks("text", version)[:, :-1] for version in (x, changed))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def _attend(qkv: Tensor, num_heads: int, shared: int, prompts: int, seen: Tensor) -> Tensor:
    """(P + C * S, 3W) -> (P + C * S, W): the start attends to itself, each end to the start and to itself."""
    split = qkv.unflatten(-1, (3, num_heads, -1))  # (T, 3, H, W / H)
    start = split[:shared].permute(1, 2, 0, 3)[:, None]  # (3, 1, H, P, d)
    ends = split[shared:].unflatten(0, (prompts, -1)).permute(2, 0, 3, 1, 4)  # (3, C, H, S, d)
    key, value = torch.cat([start[1:].expand(-1, prompts, -1, -1, -1), ends[1:]], dim=3)  # each (C, H, P + S, d)
    mixed_start = F.scaled_dot_product_attention(*start, is_causal=True)  # (1, H, P, d)
    mixed_ends = F.scaled_dot_product_attention(ends[0], key, value, attn_mask=seen)  # (C, H, S, d)
    parts = [mixed.permute(0, 2, 1, 3).flatten(2).flatten(0, 1) for mixed in (mixed_start, mixed_ends)]
    return torch.cat(parts)
