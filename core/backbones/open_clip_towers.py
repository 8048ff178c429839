"""The steps of open_clip's towers: ViT, modified ResNet, timm's ViT, and the text transformer."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Block
from .checkpoints import resize_positions
from .positions import ImagePositions, ProjectionMatrix
from .separate_projections import SplitAttention
from .tower_steps import ImageTower, TextTower, at_last_valid, attend, pre_norm_block


def transformer_block(block: nn.Module) -> Block:
    """open_clip's residual attention block."""
    return pre_norm_block(
        ln_1=block.ln_1,
        qkv=partial(_packed, block.attn),
        out=block.attn.out_proj,
        ln_2=block.ln_2,
        mlp=block.mlp,
        num_heads=block.attn.num_heads,
        scale_1=block.ls_1,
        scale_2=block.ls_2,
    )


def _packed(attention: nn.Module, x: Tensor) -> Tensor:
    if isinstance(attention, SplitAttention):
        return attention.qkv(x)
    return F.linear(x, attention.in_proj_weight, attention.in_proj_bias)


class VitTower(ImageTower):
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
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = resize_positions(visual.positional_embedding, self.grid(pixels), self.prefix)
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


class ResNetTower(ImageTower):
    """OpenAI's modified ResNet: convolutions, then one attention pool, whose output projection is the projection."""

    def __init__(self, visual: nn.Module):
        self.visual = visual

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
        positions = resize_positions(pool.positional_embedding, tuple(last.shape[2:]), 1)
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


class TimmVitTower(ImageTower):
    """timm's vision transformer under open_clip's head (SigLIP and others)."""

    def __init__(self, visual: nn.Module):
        self.visual, self.trunk = visual, visual.trunk
        self.prefix = self.trunk.num_prefix_tokens
        self.blocks = [_timm_block(block) for block in self.trunk.blocks]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        rows, columns = self.trunk.patch_embed.patch_size
        return pixels.shape[-2] // rows, pixels.shape[-1] // columns

    def start(self, pixels: Tensor) -> Tensor:
        trunk = self.trunk
        if self._takes(pixels):
            return trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels)))
        patches = trunk.patch_embed.norm(trunk.patch_embed.proj(pixels).flatten(2).transpose(1, 2))  # (B, P, W)
        return trunk.patch_drop(trunk.pos_drop(self._positioned(patches, self.grid(pixels))))

    def _takes(self, pixels: Tensor) -> bool:
        """Whether timm itself takes pixels of this size."""
        fixed = self.trunk.patch_embed.strict_img_size and self.trunk.patch_embed.img_size is not None
        of_its_size = tuple(pixels.shape[-2:]) == tuple(self.trunk.patch_embed.img_size or ())
        return of_its_size or not fixed or self.trunk.pos_embed is None

    def _positioned(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, P, W) patches of a grid -> (B, T, W) with what stands before them, at resampled positions."""
        trunk = self.trunk
        tokens = [token for token in (trunk.cls_token, getattr(trunk, "reg_token", None)) if token is not None]
        first = [token.to(patches.dtype).expand(len(patches), -1, -1) for token in tokens]
        if trunk.no_embed_class:
            return torch.cat([*first, patches + resize_positions(trunk.pos_embed[0], grid, 0)], dim=1)
        return torch.cat([*first, patches], dim=1) + resize_positions(trunk.pos_embed[0], grid, self.prefix)

    def enter(self, x: Tensor) -> Tensor:
        return self.trunk.norm_pre(x)

    def positions(self) -> ImagePositions | None:
        """Where positions are added to the patches; None where they are not added one to each patch, as it comes."""
        trunk = self.trunk
        if trunk.pos_embed is None or not isinstance(getattr(trunk.patch_embed, "norm", None), nn.Identity):
            return None
        return ImagePositions(trunk.patch_embed.proj, trunk, "pos_embed", 0 if trunk.no_embed_class else self.prefix)

    def pool(self, x: Tensor) -> Tensor:
        return self.trunk.forward_head(self.trunk.norm(x))

    def project(self, hidden: Tensor) -> Tensor:
        return self.visual.head(hidden)

    def matrix(self) -> ProjectionMatrix | None:
        linear = getattr(self.visual.head, "proj", None)
        return ProjectionMatrix.of(linear) if isinstance(linear, nn.Linear) else None


def _timm_block(block: nn.Module) -> Block:
    return pre_norm_block(
        ln_1=block.norm1,
        qkv=block.attn.qkv,
        out=block.attn.proj,
        ln_2=block.norm2,
        mlp=block.mlp,
        num_heads=block.attn.num_heads,
        scale_1=block.ls1,
        scale_2=block.ls2,
    )


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
