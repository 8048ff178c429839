"""The steps of open_clip's own towers, ViT, modified ResNet and text transformer, and of a BERT in its text's place."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..contracts.backbone import Block
from ..contracts.images import ImageSize, height_and_width
from .checkpoints import resize_positions
from .hf_towers import bert_block
from .positions import ImagePositions, ProjectionMatrix
from .separate_projections import packed_qkv
from .tower_steps import ImageTower, TextTower, at_last_valid, attend, pre_norm_block

RESNET_STRIDE = 32
"""Pixels from one cell of the last map to the next."""


def transformer_block(block: nn.Module) -> Block:
    """open_clip's residual attention block."""
    return pre_norm_block(
        ln_1=block.ln_1,
        qkv=partial(packed_qkv, block.attn),
        out=block.attn.out_proj,
        ln_2=block.ln_2,
        mlp=block.mlp,
        num_heads=block.attn.num_heads,
        scale_1=block.ls_1,
        scale_2=block.ls_2,
        module=block,
        of=transformer_block,
    )


class OpenClipVitTower(ImageTower):
    """open_clip's own vision transformer."""

    prefix = 1

    def __init__(self, visual: nn.Module):
        self.visual = visual
        self.blocks = [transformer_block(block) for block in visual.transformer.resblocks]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        rows, columns = self.visual.conv1.kernel_size
        return pixels.shape[-2] // rows, pixels.shape[-1] // columns

    def start(self, pixels: Tensor) -> Tensor:
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # (B, P, W)
        first = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        own = tuple(visual.grid_size)
        positions = resize_positions(visual.positional_embedding, self.grid(pixels), self.prefix, own)
        x = torch.cat([first, patches], dim=1) + positions.to(patches.dtype)  # (B, 1 + P, W)
        return visual.patch_dropout(x)

    def enter(self, x: Tensor) -> Tensor:
        return self.visual.ln_pre(x)

    def positions(self) -> ImagePositions:
        """Where positions are added to the patches."""
        return ImagePositions(self.visual.conv1, self.visual, "positional_embedding", self.prefix)

    def pool(self, x: Tensor) -> Tensor:
        visual = self.visual
        if visual.attn_pool is not None:
            return self._one(visual.ln_post(visual.attn_pool(x)))
        if visual.final_ln_after_pool:
            return visual.ln_post(self._one(x))
        return self._one(visual.ln_post(x))

    def _one(self, x: Tensor) -> Tensor:
        return x[:, 1:].mean(dim=1) if self.visual.pool_type == "avg" else x[:, 0]

    def project(self, hidden: Tensor) -> Tensor:
        return hidden if self.visual.proj is None else hidden @ self.visual.proj

    def matrix(self) -> ProjectionMatrix | None:
        return None if self.visual.proj is None else ProjectionMatrix(self.visual, "proj")

    def project_patches(self, x: Tensor) -> Tensor:
        if self.visual.attn_pool is not None:
            return super().project_patches(x)
        return self.project(self.visual.ln_post(x[:, self.prefix :]))


def resnet_grid(size: ImageSize, stride: int = RESNET_STRIDE) -> tuple[int, int]:
    """(h, w) of the cells that the attention pool of a ResNet has positions for."""
    height, width = height_and_width(size)
    return height // stride, width // stride


class ResNetTower(ImageTower):
    """OpenAI's modified ResNet: convolutions, then one attention pool, whose output projection is the projection."""

    def __init__(self, visual: nn.Module):
        self.visual = visual
        whole = isinstance(visual.layer4[0].avgpool, nn.Identity)  # the last stage goes one cell at a time
        self.cell = RESNET_STRIDE // 2 if whole else RESNET_STRIDE

    def maps(self, pixels: Tensor) -> list[Tensor]:
        x, maps = self.visual.stem(pixels), []
        for layer in (self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def hidden(self, pixels: Tensor) -> Tensor:
        return self._attention_pool(self.maps(pixels)[-1])[:, 0]

    def pool_map(self, last: Tensor) -> Tensor:
        return self.project(self._attention_pool(last))

    def _attention_pool(self, last: Tensor) -> Tensor:
        """(B, W, h, w) -> (B, 1 + P, W): what the mean and each cell see of all, before the projection."""
        pool, cells = self.visual.attnpool, last.flatten(2).transpose(1, 2)  # (B, P, W)
        own = resnet_grid(self.visual.image_size, self.cell)
        positions = resize_positions(pool.positional_embedding, tuple(last.shape[2:]), 1, own)
        x = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions.to(cells.dtype)
        qkv = torch.cat([pool.q_proj(x), pool.k_proj(x), pool.v_proj(x)], dim=-1)  # (B, 1 + P, 3W)
        return attend(qkv, pool.num_heads)

    def project(self, hidden: Tensor) -> Tensor:
        return self.visual.attnpool.c_proj(hidden)

    def matrix(self) -> ProjectionMatrix:
        return ProjectionMatrix.of(self.visual.attnpool.c_proj)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Each cell's value, projected (MaskCLIP: Extract Free Dense Labels from CLIP, 2022, arXiv 2112.01071)."""
        cells, grid = self._cells(pixels)
        return self.project(self.visual.attnpool.v_proj(cells)), grid

    def tokens_and_keys(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        cells, grid = self._cells(pixels)
        pool = self.visual.attnpool
        return self.project(pool.v_proj(cells)), pool.k_proj(cells), grid

    def _cells(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        last = self.maps(pixels)[-1]
        return last.flatten(2).transpose(1, 2), (last.shape[-2], last.shape[-1])  # (B, P, W)


class OpenClipTextTower(TextTower):
    """open_clip's text transformer, part of the model itself (CLIP) or a module of its own (CustomTextCLIP)."""

    def __init__(self, owner: nn.Module, pool_type: str, causal: bool):
        self.owner, self.pool_type, self.causal = owner, pool_type, causal
        self.table = owner.token_embedding
        self.blocks = [transformer_block(block) for block in owner.transformer.resblocks]

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return embeddings + self.owner.positional_embedding[: embeddings.shape[1]].to(embeddings.dtype)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.pool_type == "first":
            chosen = x[:, 0]
        elif self.pool_type == "last":
            chosen = x[:, -1]
        else:
            chosen = at_last_valid(x, mask)
        normal, projection = self.owner.ln_final(chosen), self.owner.text_projection
        if projection is None:
            return normal
        return projection(normal) if isinstance(projection, nn.Module) else normal @ projection


class OpenClipBertTower(TextTower):
    """A BERT or RoBERTa of transformers as open_clip's text tower, with its pooler and projection (BiomedCLIP).

    Args:
        owner: open_clip's `HFTextEncoder`.
        pooler: "cls_last_hidden_state_pooler", "cls_pooler" or "mean_pooler".
        from_padding: whether positions count valid tokens, from after the padding's own (RoBERTa).
    """

    masked = True

    def __init__(self, owner: nn.Module, pooler: str, from_padding: bool):
        self.owner, self.pooler, self.from_padding = owner, pooler, from_padding
        self.bert = owner.transformer
        self.table = self.bert.embeddings.word_embeddings
        self.blocks = [bert_block(layer) for layer in self.bert.encoder.layer]

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        table = self.bert.embeddings
        first_kind = table.token_type_embeddings.weight[0]
        return table.LayerNorm(embeddings + first_kind + table.position_embeddings(self._positions(mask)))

    def _positions(self, mask: Tensor) -> Tensor:
        """(N, L) or (L,) indices into the table of positions."""
        if self.from_padding:
            return mask.long().cumsum(dim=1) * mask + self.bert.embeddings.padding_idx
        return torch.arange(mask.shape[1], device=mask.device)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.pooler == "mean_pooler":
            valid = mask.to(x.dtype)[:, :, None]  # (N, L, 1)
            return self.owner.proj((x * valid).sum(dim=1) / valid.sum(dim=1))
        return self.owner.proj(self.bert.pooler(x) if self.pooler == "cls_pooler" else x[:, 0])
