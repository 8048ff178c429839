"""Text that looks at the image: the decoder of DenseCLIP's context-aware prompting.

DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518),
section 3.3.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ......core.contracts import require
from ......core.training import truncated_starts


class ContextDecoder(nn.Module):
    """Queries attend to each other and to what the image shows: transformer decoder layers between projections.

    Args:
        visual_dim: D, width of queries and of visual context.
        out_dim: width of what comes out; None is D.
        width: of the decoder.
        heads: of its attention.
        layers: how many.
        dropout: after attention and in the MLP, 0 to below 1.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        visual_dim: int,
        out_dim: int | None = None,
        width: int = 256,
        heads: int = 4,
        layers: int = 3,
        dropout: float = 0.1,
    ):
        super().__init__()
        require(heads >= 1 and width % heads == 0, "heads", heads, f"give a divisor of the decoder's width {width}")
        require(layers >= 1, "layers", layers, "give 1 or more")
        require(0 <= dropout < 1, "dropout", dropout, "give 0 to below 1")
        self.memory_proj = nn.Sequential(nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width), nn.LayerNorm(width))
        self.text_proj = nn.Sequential(nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width))
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(layers))
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_dim or visual_dim))
        self.apply(truncated_starts)

    def forward(self, queries: Tensor, visual: Tensor) -> Tensor:
        """(B, K, D) queries and (B, N, D) visual context -> (B, K, out_dim)."""
        memory, x = self.memory_proj(visual), self.text_proj(queries)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.out_proj(x)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, MLP; each behind a norm and beside a residual path."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.cross_attn = Attention(width, heads, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        normal = self.norm1(x)
        x = x + self.self_attn(normal, normal)
        x = x + self.cross_attn(self.norm2(x), memory)
        return x + self.dropout(self.mlp(self.norm3(x)))


class Attention(nn.Module):
    """Attention whose queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, W), (B, N, W) -> (B, K, W)."""
        query, key, value = self.q_proj(queries), self.k_proj(memory), self.v_proj(memory)
        mixed = F.scaled_dot_product_attention(self._split(query), self._split(key), self._split(value))
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, W / H)
