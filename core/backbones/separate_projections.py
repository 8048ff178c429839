"""Query, key and value projections that another library packs into one parameter, as linear layers of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CapabilityError

PARTS = ("q", "k", "v")


class SplitLinear(nn.Module):
    """One linear layer (W -> 3 W') as three, side by side."""

    names = PARTS

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.q, self.k, self.v = _cut(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., 3 W')."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    def merged(self) -> nn.Linear:
        weight, bias = _joined(self)
        return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta"), weight, bias)


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` with separate projections, without the weight matrix in memory."""

    names = ("q_proj", "k_proj", "v_proj")

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        self.q_proj, self.k_proj, self.v_proj = _cut(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = attention.out_proj

    def qkv(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., 3W): as `Block.qkv`."""
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The call of `nn.MultiheadAttention`, of which open_clip uses this much.

        Args:
            query: (B, T, W) if `batch_first`, else (T, B, W); key and value likewise with S positions.
            attn_mask: (T, S) or (B * H, T, S), added to the scores, or bool, true where nothing is seen.

        Raises:
            CapabilityError: the weights were asked for.
        """
        if need_weights:
            raise CapabilityError("split attention keeps no weight matrix; call merge_attention() to look at weights")
        parts = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        query, key, value = (self._heads(part if self.batch_first else part.transpose(0, 1)) for part in parts)
        drop = self.dropout if self.training else 0.0
        seen = self._seen(attn_mask, query)
        mixed = F.scaled_dot_product_attention(query, key, value, seen, drop)  # (B, H, T, W / H)
        mixed = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, T, W)
        return (mixed if self.batch_first else mixed.transpose(0, 1)), None

    def merged(self) -> nn.MultiheadAttention:
        weight, bias = _joined(self)
        made = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            dropout=self.dropout,
            bias=bias is not None,
            batch_first=self.batch_first,
            device="meta",
        )
        made.out_proj = self.out_proj
        return _filled(made, weight, bias, "in_proj_").train(self.training)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, W / H)

    def _seen(self, mask: Tensor | None, query: Tensor) -> Tensor | None:
        if mask is None:
            return None
        mask = ~mask if mask.dtype == torch.bool else mask.to(query.dtype)
        return mask.unflatten(0, (-1, self.num_heads)) if mask.ndim == 3 else mask  # (B, H, T, S) or (T, S)


def packed_qkv(attention: nn.Module, x: Tensor) -> Tensor:
    """(..., W) -> (..., 3W) of an `nn.MultiheadAttention`, or of what stands in its place."""
    if isinstance(attention, SplitAttention):
        return attention.qkv(x)
    return F.linear(x, attention.in_proj_weight, attention.in_proj_bias)


@torch.enable_grad()  # a part trains if its whole does, and the other way round, wherever this is called
def _cut(weight: Tensor, bias: Tensor | None) -> list[nn.Linear]:
    """Three linear layers of a stacked weight (3 W', W) and bias (3 W')."""
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    made = []
    for part, shift in zip(weight.chunk(3), biases):
        linear = nn.Linear(part.shape[1], part.shape[0], bias=shift is not None, device="meta")
        made.append(_filled(linear, part.clone(), None if shift is None else shift.clone()))
    return made


@torch.enable_grad()
def _joined(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The stacked weight and bias of its three projections."""
    parts = [getattr(module, name) for name in module.names]
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return torch.cat([part.weight for part in parts]), bias


def _filled(module: nn.Module, weight: Tensor, bias: Tensor | None, prefix: str = "") -> nn.Module:
    """The module with these as its parameters. It was made without memory, so that no random number was drawn."""
    for kind, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(module, prefix + kind, nn.Parameter(value.detach(), requires_grad=value.requires_grad))
    return module
