"""Token merging: tokens of an axis joined in pairs, between attention and MLP of each block.

Token Merging: Your ViT But Faster (Bolya et al., 2022, arXiv 2210.09461). Half of the tokens, those at even places,
look for the most similar token of the other half; the r most similar pairs become their mean, weighted by how many
tokens each already stands for. Tokens are compared by their keys, averaged over heads. A token that stands for s others
counts s times in the attention of later blocks: log s is added to its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Block
from .spec_options import Reduction


@dataclass(frozen=True)
class TokenMerge:
    """Which of the n tokens of an axis join which, those at even places others at odd ones.

    Args:
        staying: (..., n / 2 - r, 1) even tokens that stay, each counted among the even ones.
        joined: (..., r, 1) even tokens that join another.
        into: (..., r, 1) which odd tokens these are, counted among the odd ones.
        protected: tokens at the front that stay there, in their order.
    """

    staying: Tensor
    joined: Tensor
    into: Tensor
    protected: int = 0

    @classmethod
    @torch.no_grad()
    def matching(
        cls,
        metric: Tensor,
        count: int,
        *,
        protected: int = 0,
        ordered: bool = True,
        together: bool = False,
        spared: int | None = None,
    ) -> TokenMerge | None:
        """The `count` most similar pairs, or as many as there can be; None where that is none.

        Args:
            metric: (..., n, C), what tokens are compared by: the cosine; (B, G, n, C) where `together`.
            count: r; at most (n - spared) // 2 are merged.
            protected: tokens at the front, a class token and registers, that join no other and that none joins.
            ordered: even tokens that stay are in their order, not by falling similarity.
            together: all G sets do the same, by their votes: each token joins the one that most of the G chose, and
                pairs are ordered by the most frequent of the G similarities, which is the smallest where all differ.
            spared: tokens that are not counted among those of which half can go; by default the protected ones.
        """
        count = min(count, (metric.shape[-2] - (protected if spared is None else spared)) // 2)
        if count <= 0:
            return None
        unit = F.normalize(metric, dim=-1)
        similar = unit[..., ::2, :] @ unit[..., 1::2, :].transpose(-1, -2)  # (..., even, odd)
        if protected:
            similar[..., : (protected + 1) // 2, :] = -torch.inf
            similar[..., : protected // 2] = -torch.inf
        best, chosen = similar.max(dim=-1)
        if together:
            best, chosen = (each.mode(dim=-2, keepdim=True).values.expand_as(each) for each in (best, chosen))
        order = best.topk(best.shape[-1]).indices[..., None]  # ONNX has no stable sort
        joined, staying = order[..., :count, :], order[..., count:, :]
        staying = staying.neg().topk(staying.shape[-2], dim=-2).values.neg() if ordered else staying
        return cls(staying, joined, chosen[..., None].gather(-2, joined), protected)

    def __call__(self, x: Tensor, reduce: str = "sum") -> Tensor:
        """(..., n, C) -> (..., n - r, C): the protected tokens, the even tokens that stay, then the odd ones with what
        joined them.

        Args:
            reduce: how a token is made of those that join, as of `Tensor.scatter_reduce`.
        """
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        wide = [index.expand(*index.shape[:-1], x.shape[-1]) for index in (self.staying, self.joined, self.into)]
        rest, moved = even.gather(-2, wide[0]), even.gather(-2, wide[1])
        return self._in_front(torch.cat([rest, odd.scatter_reduce(-2, wide[2], moved, reduce)], dim=-2))

    def means(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (..., n, C) as means weighted by how many each is already, and how many they are then.

        Args:
            sizes: (..., n, 1), None where each token is one.
        """
        sizes = torch.ones_like(x[..., :1]) if sizes is None else sizes
        total = self(sizes)
        return self(x * sizes) / total, total

    def source(self, count: int) -> Tensor:
        """(..., n) of the n = `count` tokens: which token of the output holds each."""
        stay, moved, into = (index[..., 0] for index in (self.staying, self.joined, self.into))
        evens, odds, device = (count + 1) // 2, count // 2, stay.device
        of_odd = (stay.shape[-1] + torch.arange(odds, device=device)).expand(*stay.shape[:-1], odds)
        of_stay = torch.arange(stay.shape[-1], device=device).expand_as(stay)
        of_even = torch.zeros(*stay.shape[:-1], evens, dtype=torch.long, device=device)
        of_even = of_even.scatter(-1, stay, of_stay).scatter(-1, moved, of_odd.gather(-1, into))
        made = torch.stack([of_even, F.pad(of_odd, (0, evens - odds))], dim=-1).flatten(-2)[..., :count]
        if self.protected < 2:
            return made
        places = torch.arange(stay.shape[-1] + odds, device=device)
        return torch.zeros_like(places).scatter(0, self._in_front(places[:, None])[:, 0], places)[made]

    def _in_front(self, x: Tensor) -> Tensor:
        """(..., n - r, C): even tokens, then odd ones -> the protected ones of both first, in their order."""
        if self.protected < 2:
            return x
        staying = self.staying.shape[-2]
        first = [number // 2 + (staying if number % 2 else 0) for number in range(self.protected)]
        front = [x[..., place : place + 1, :] for place in first]
        even, odd = (self.protected + 1) // 2, staying + self.protected // 2
        return torch.cat([*front, x[..., even:staying, :], x[..., odd:, :]], dim=-2)


class MergedTokens:
    """The tokens of one pass, as they become fewer.

    Args:
        reduction: how many are merged in each block.
        prefix: tokens that stand before the patches, which are protected.

    Attributes:
        sizes: (B, T, 1), how many each stands for; None: one each.
        source: (B, N), which of the T tokens holds each of those that there were at first; None: each itself.
    """

    def __init__(self, reduction: Reduction, prefix: int):
        self.reduction, self.prefix = reduction, prefix
        self.sizes: Tensor | None = None
        self.source: Tensor | None = None

    def through(self, blocks: Sequence[Block], x: Tensor, stops: Sequence[int]) -> list[Tensor]:
        """(B, N, W) before the first block -> (B, N, W) after each of so many blocks, merged tokens copied back to all
        places that they stand for."""
        made, counts = [], self.reduction.per_block(len(blocks))
        for number, (block, count) in enumerate(zip(blocks, counts, strict=True), 1):
            step = _Between(count, block.num_heads, self.prefix, self.sizes)
            x = block(x, mask=self._log_sizes(x), between=step)
            self._take(step)
            if number in stops:
                made.append(self.unmerged(x))
        return made

    def unmerged(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, N, W). What pools these, by mean or attention, weighs each token by its size."""
        if self.source is None:
            return x
        return x.gather(1, self.source[..., None].expand(-1, -1, x.shape[-1]))

    def _log_sizes(self, x: Tensor) -> Tensor | None:
        """(B, T), added to the scores of each key."""
        if self.sizes is None or not self.reduction.proportional:
            return None
        return self.sizes[..., 0].log().to(x.dtype)

    def _take(self, step: _Between) -> None:
        if step.merge is None:
            return
        places = step.merge.source(step.tokens)
        self.sizes, self.source = step.sizes, places if self.source is None else places.gather(1, self.source)


class _Between:
    """What one block does between attention and MLP; a second time, for activations that were not kept, the same."""

    def __init__(self, count: int, num_heads: int, prefix: int, sizes: Tensor | None):
        self.count, self.num_heads, self.prefix, self.before = count, num_heads, prefix, sizes
        self.merge: TokenMerge | None = None
        self.sizes, self.tokens = sizes, 0

    def __call__(self, x: Tensor, qkv: Tensor) -> Tensor:
        """(B, T, W) after attention and its (B, T, 3 W) -> (B, T - r, W)."""
        keys = qkv.chunk(3, dim=-1)[1].unflatten(-1, (self.num_heads, -1)).mean(dim=-2)  # (B, T, W / H)
        self.tokens = x.shape[1]
        ordered = self.prefix > 0  # as published
        self.merge = TokenMerge.matching(keys.float(), self.count, protected=self.prefix, ordered=ordered)
        if self.merge is None:
            return x
        sizes = torch.ones_like(x[..., :1], dtype=torch.float32) if self.before is None else self.before
        made, self.sizes = self.merge.means(x.float(), sizes)
        return made.to(x.dtype)
