"""Blocks of an image tower that attend over time before they attend over space, and merge tokens in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....core.backbones import TokenMerge, attend
from ....core.contracts import Block


class TemporalAttention(nn.Module):
    """Attention of each patch over the frames, and a last layer that starts at 0.

    Args:
        width: W. heads: of the attention. eps: of the norm.
    """

    def __init__(self, width: int, heads: int, eps: float = 1e-5):
        super().__init__()
        self.heads = heads
        self.temporal_norm1 = nn.LayerNorm(width, eps=eps)
        self.qkv, self.proj, self.temporal_fc = (nn.Linear(width, size) for size in (3 * width, width, width))
        nn.init.zeros_(self.temporal_fc.weight)
        nn.init.zeros_(self.temporal_fc.bias)

    @classmethod
    @torch.no_grad()
    def beside(cls, block: Block) -> TemporalAttention:
        """One that starts as the block's own attention and its norm, as TimeSformer does."""
        width = block.ln_1.weight.shape[0]
        made = cls(width, block.num_heads, block.ln_1.eps).to(block.ln_1.weight.device)
        made.temporal_norm1.load_state_dict(block.ln_1.state_dict())
        for own, layer in ((made.qkv, block.qkv), (made.proj, block.out)):
            one_by_one = torch.eye(width, device=own.weight.device)
            own.bias.copy_(layer(torch.zeros_like(one_by_one[0])))
            own.weight.copy_((layer(one_by_one) - own.bias).T)
        return made

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, W) -> what is added to it, and (N, T, W / heads), the keys."""
        qkv = self.qkv(self.temporal_norm1(x))
        return self.temporal_fc(self.proj(attend(qkv, self.heads))), mean_keys(qkv, self.heads)


def mean_keys(qkv: Tensor, heads: int) -> Tensor:
    """(..., n, 3 W) stacked queries, keys and values -> (..., n, W / heads), keys averaged over heads."""
    return qkv.chunk(3, dim=-1)[1].unflatten(-1, (heads, -1)).mean(dim=-2)


def divided(
    block: Block,
    temporal: TemporalAttention,
    first: Tensor,
    patches: Tensor,
    sizes: Tensor | None = None,
    merges: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One block: patches over time, frames merged, each frame with the class token over space, patches merged, the MLP.

    The class token goes into each frame, and what attention adds to it is averaged over frames.

    Args:
        first: (B, W) class tokens. patches: (B, T, L, W).
        sizes: (B, T, 1 + L, 1), of how many tokens each is the mean, that of the class token 1; None: all of one.
        merges: frames and patches to merge.

    Returns:
        The same after the block, with T and L smaller by what was merged.
    """
    length, frames_merged, patches_merged = patches.shape[2], *merges
    of_patches = patches.transpose(1, 2)  # (B, L, T, W)
    added, keys = temporal(of_patches.flatten(0, 1))
    of_patches = of_patches + added.unflatten(0, (-1, length))
    if frames_merged:
        merge = TokenMerge.matching(keys.unflatten(0, (-1, length)), frames_merged, together=True, spared=1)
        own = None if sizes is None else sizes[:, :, 1:].transpose(1, 2)
        of_patches, own = (of_patches, own) if merge is None else merge.means(of_patches, own)
        sizes = None if own is None else torch.cat([torch.ones_like(own[:, :1]), own], dim=1).transpose(1, 2)
    x = with_first(first, of_patches.transpose(1, 2))  # (B, T, 1 + L, W)
    qkv = block.qkv(block.ln_1(x.flatten(0, 1)))
    added = block.attended(qkv).unflatten(0, x.shape[:2])
    first = first + added[:, :, 0].mean(dim=1)
    x = with_first(first, (x + added)[:, :, 1:])
    if patches_merged:
        keys = mean_keys(qkv, block.num_heads).unflatten(0, x.shape[:2])
        merge = TokenMerge.matching(keys, patches_merged, protected=1)
        x, sizes = (x, sizes) if merge is None else merge.means(x, sizes)
    patches = x[:, :, 1:]
    out = block(torch.cat([first[:, None], patches.flatten(1, 2)], dim=1), attention=torch.zeros_like)
    return out[:, 0], out[:, 1:].unflatten(1, patches.shape[1:3]), sizes


def with_first(first: Tensor, patches: Tensor) -> Tensor:
    """(B, W) and (B, T, L, W) -> (B, T, 1 + L, W)."""
    return torch.cat([first[:, None, None].expand(-1, patches.shape[1], -1, -1), patches], dim=2)
