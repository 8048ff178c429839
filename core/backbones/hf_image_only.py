"""The steps of transformers' image towers that have no text tower beside them: DINOv2, with and without registers
(arXiv 2304.07193, 2309.16588), DINOv3 (arXiv 2508.10104), and what has their shape (RAD-DINO, arXiv 2401.10815).

Their feature is the normed class token, as transformers gives it (`pooler_output`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..contracts.backbone import Block
from .tower_steps import ImageTower, attend, pre_norm_block


class Dinov2Tower(ImageTower):
    """DINOv2: learned positions, resampled as transformers does, and registers behind the class token."""

    def __init__(self, model: nn.Module):
        self.model, self.embeddings = model, model.embeddings
        registers = getattr(self.embeddings, "register_tokens", None)
        self.prefix = 1 + (0 if registers is None else registers.shape[1])
        self.blocks = [_dino_block(layer) for layer in model.encoder.layer]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        rows, columns = self.embeddings.patch_embeddings.patch_size
        return pixels.shape[-2] // rows, pixels.shape[-1] // columns

    def start(self, pixels: Tensor) -> Tensor:
        return self.embeddings(pixels)

    def pool(self, x: Tensor) -> Tensor:
        return self.model.layernorm(x[:, 0])


class Dinov3Tower(ImageTower):
    """DINOv3: queries and keys of the patches are turned by where they lie, in every block."""

    def __init__(self, model: nn.Module):
        self.model, self.embeddings = model, model.embeddings
        self.prefix = 1 + self.embeddings.register_tokens.shape[1]
        layers = model.layer if hasattr(model, "layer") else model.model.layer  # spelled either way in transformers
        self.blocks = [_dino_block(layer, self._turned) for layer in layers]
        size = model.config.image_size
        size = size if isinstance(size, int) else size[0]
        self._turns = self._turns_of(torch.empty(1, 3, size, size, device=model.norm.weight.device))

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        patch = self.embeddings.patch_embeddings.kernel_size[0]
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def start(self, pixels: Tensor) -> Tensor:
        self._turns = self._turns_of(pixels)  # the blocks that follow turn by them
        return self.embeddings(pixels)

    def pool(self, x: Tensor) -> Tensor:
        return self.model.norm(x[:, 0])

    def _turns_of(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (P, W / H) of the patches."""
        return self.model.rope_embeddings(pixels)

    def _turned(self, qkv: Tensor, num_heads: int, mask=None, causal: bool = False) -> Tensor:
        """`attend`, with what stands before and after the patches left as it is."""
        batch, length, _ = qkv.shape
        query, key, value = qkv.view(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, W / H)
        query, key = (self._turn(x) for x in (query, key))
        stacked = torch.stack([query, key, value], dim=2)  # (B, H, 3, T, W / H)
        return attend(stacked.permute(0, 3, 2, 1, 4).reshape(batch, length, -1), num_heads, mask, causal)

    def _turn(self, x: Tensor) -> Tensor:
        cosines, sines = self._turns
        last = self.prefix + len(cosines)
        patches = x[:, :, self.prefix : last]
        first, second = patches.chunk(2, dim=-1)
        turned = patches * cosines + torch.cat([-second, first], dim=-1) * sines
        return torch.cat([x[:, :, : self.prefix], turned, x[:, :, last:]], dim=2)


def _dino_block(layer: nn.Module, mix=attend) -> Block:
    attention = layer.attention
    if hasattr(attention, "attention"):  # before transformers 5 DINOv2's layers had BERT's names
        inner = attention.attention
        projections, out = (inner.query, inner.key, inner.value), attention.output.dense
        num_heads = inner.num_attention_heads
    else:
        projections, out = (attention.q_proj, attention.k_proj, attention.v_proj), attention.o_proj
        num_heads = projections[0].out_features // attention.head_dim
    return pre_norm_block(
        ln_1=layer.norm1,
        qkv=partial(_stacked, projections),
        out=out,
        ln_2=layer.norm2,
        mlp=layer.mlp,
        num_heads=num_heads,
        scale_1=layer.layer_scale1,
        scale_2=layer.layer_scale2,
        mix=mix,
        module=layer,
    )


def _stacked(projections: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    return torch.cat([projection(x) for projection in projections], dim=-1)
