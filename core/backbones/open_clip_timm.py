"""The steps of timm's image towers under open_clip's head: vision transformers with learned positions (SigLIP,
BiomedCLIP, MobileCLIP-B, ViTamin) or rotary ones (EVA-02, PE-Core), and convolutions (MobileCLIP-S, ConvNeXt).

PE-Core: Perception Encoder, 2025, arXiv 2504.13181; EVA-02: EVA-CLIP, 2023, arXiv 2303.15389; ViTamin, 2024, arXiv
2404.02132; MobileCLIP, 2023, arXiv 2311.17049.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Block
from ..errors import ConfigError
from .checkpoints import resize_positions
from .positions import ImagePositions, ProjectionMatrix
from .separate_projections import SplitLinear
from .tower_steps import WITH_BLOCKS, ImageTower, attend, pre_norm_block

KINDS: dict[str, str] = {
    "timm.models.vision_transformer": "vit",
    "timm.models.vision_transformer_hybrid": "vit",
    "timm.models.vitamin": "vit",
    "timm.models.eva": "rotary",
    "timm.models.fastvit": "maps",
    "timm.models.convnext": "maps",
}
"""timm's module of an architecture -> how its towers are opened here."""


def timm_tower_class(name: str) -> type[ImageTower] | None:
    """The tower of an architecture of timm; None for one that is run whole only."""
    import timm

    bare = name.partition(".")[0]
    return tower_class_of(timm.models.model_entrypoint(bare).__module__) if timm.is_model(bare) else None


def tower_class_of(module: str) -> type[ImageTower] | None:
    """The same of an architecture that a module of timm holds."""
    classes: dict[str, type[ImageTower]] = {"vit": TimmVitTower, "rotary": TimmRotaryTower, "maps": TimmMapTower}
    return classes.get(KINDS.get(module, ""))


class _TimmHead:
    """What stands after pooling: timm's classifier, or open_clip's projection, or neither."""

    visual: nn.Module
    trunk: nn.Module

    def project(self, hidden: Tensor) -> Tensor:
        return self.visual.head(self.trunk.get_classifier()(hidden))

    def matrix(self) -> ProjectionMatrix | None:
        linears = [self.trunk.get_classifier(), *self.visual.head.children()]
        linears = [layer for layer in linears if not isinstance(layer, (nn.Identity, nn.Dropout))]
        return ProjectionMatrix.of(linears[0]) if [type(layer) for layer in linears] == [nn.Linear] else None


class TimmVitTower(_TimmHead, ImageTower):
    """timm's vision transformer with learned positions, its patches cut by one convolution or by several."""

    opens = WITH_BLOCKS

    def __init__(self, visual: nn.Module):
        self.visual, self.trunk = visual, visual.trunk
        self.prefix = self.trunk.num_prefix_tokens
        self.blocks = [timm_block(block) for block in self.trunk.blocks]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        return tuple(self.trunk.patch_embed.dynamic_feat_size(tuple(pixels.shape[-2:])))

    def start(self, pixels: Tensor) -> Tensor:
        trunk = self.trunk
        if self._takes(pixels):
            return trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels)))
        if not isinstance(getattr(trunk.patch_embed, "norm", None), nn.Module):  # a stem of several convolutions
            raise ConfigError(
                f"pixels of {tuple(pixels.shape[-2:])} do not fit this image tower, which takes "
                f"{tuple(trunk.patch_embed.img_size)} only"
            )
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
        own = tuple(trunk.patch_embed.grid_size)
        tokens = [token for token in (trunk.cls_token, getattr(trunk, "reg_token", None)) if token is not None]
        first = [token.to(patches.dtype).expand(patches.shape[0], -1, -1) for token in tokens]
        if trunk.no_embed_class:
            return torch.cat([*first, patches + resize_positions(trunk.pos_embed[0], grid, 0, own)], dim=1)
        return torch.cat([*first, patches], dim=1) + resize_positions(trunk.pos_embed[0], grid, self.prefix, own)

    def enter(self, x: Tensor) -> Tensor:
        return self.trunk.norm_pre(x)

    def positions(self) -> ImagePositions | None:
        """Where positions are added to the patches; None where they are not added one to each patch, as it comes."""
        trunk = self.trunk
        if trunk.pos_embed is None or not isinstance(getattr(trunk.patch_embed, "norm", None), nn.Identity):
            return None
        return ImagePositions(trunk.patch_embed.proj, trunk, "pos_embed", 0 if trunk.no_embed_class else self.prefix)

    def pool(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 1 + self.prefix, -1) if x.shape[1] == 1 else x  # one alone, in the places that are averaged
        return self.trunk.forward_head(self.trunk.norm(x), pre_logits=True)


def timm_block(block: nn.Module) -> Block:
    return pre_norm_block(
        ln_1=block.norm1,
        qkv=block.attn.qkv,
        out=block.attn.proj,
        ln_2=block.norm2,
        mlp=block.mlp,
        num_heads=block.attn.num_heads,
        scale_1=block.ls1,
        scale_2=block.ls2,
        module=block,
        of=timm_block,
    )


class TimmRotaryTower(_TimmHead, ImageTower):
    """timm's EVA: queries and keys of the patches are turned by where they lie, in every block."""

    opens = WITH_BLOCKS
    turned = True

    def __init__(self, visual: nn.Module):
        self.visual, self.trunk = visual, visual.trunk
        self.prefix = self.trunk.num_prefix_tokens
        self.blocks = [self._block(block) for block in self.trunk.blocks]
        self._grid = tuple(self.trunk.patch_embed.grid_size)

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        return tuple(self.trunk.patch_embed.dynamic_feat_size(tuple(pixels.shape[-2:])))

    def start(self, pixels: Tensor) -> Tensor:
        trunk = self.trunk
        self._grid = self.grid(pixels)  # the blocks that follow turn by it
        patches = trunk.patch_embed.norm(trunk.patch_embed.proj(pixels).flatten(2).transpose(1, 2))  # (B, P, W)
        tokens = [token for token in (trunk.cls_token, trunk.reg_token) if token is not None]
        first = [token.to(patches.dtype).expand(patches.shape[0], -1, -1) for token in tokens]
        if trunk.pos_embed is None:
            return torch.cat([*first, patches], dim=1)
        own = tuple(trunk.patch_embed.grid_size)
        if trunk.no_embed_class:
            return torch.cat([*first, patches + resize_positions(trunk.pos_embed[0], self._grid, 0, own)], dim=1)
        return torch.cat([*first, patches], dim=1) + resize_positions(trunk.pos_embed[0], self._grid, self.prefix, own)

    def enter(self, x: Tensor) -> Tensor:
        return self.trunk.norm_pre(x)

    def positions(self) -> ImagePositions | None:
        """None: positions are turns, too, and come again in every block."""
        return None

    def pool(self, x: Tensor) -> Tensor:
        x = x.expand(-1, 1 + self.prefix, -1) if x.shape[1] == 1 else x  # one alone, in the places that are averaged
        return self.trunk.forward_head(self.trunk.norm(x), pre_logits=True)

    def _block(self, block: nn.Module) -> Block:
        attention = block.attn
        return pre_norm_block(
            ln_1=block.norm1,
            qkv=partial(_rotary_qkv, attention),
            out=nn.Sequential(attention.norm, attention.proj),
            ln_2=block.norm2,
            mlp=block.mlp,
            num_heads=attention.num_heads,
            scale_1=partial(_scaled, block, "gamma_1"),
            scale_2=partial(_scaled, block, "gamma_2"),
            mix=partial(self._turned, attention),
            module=block,
        )

    def _turned(self, attention: nn.Module, qkv: Tensor, num_heads: int, mask=None, causal: bool = False) -> Tensor:
        """`attend` of queries and keys that are normed, those of the patches turned by where they lie."""
        from timm.layers import apply_rot_embed_cat

        batch, length, _ = qkv.shape
        query, key, value = qkv.view(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, W / H)
        query, key = attention.q_norm(query), attention.k_norm(key)
        if self.trunk.rope is not None:
            turns = self.trunk.rope.get_embed(shape=list(self._grid))  # (P, 2 * W / H)
            last = self.prefix + len(turns)
            turn = partial(apply_rot_embed_cat, emb=turns, half=getattr(attention, "rotate_half", False))
            query, key = (
                torch.cat([x[:, :, : self.prefix], turn(x[:, :, self.prefix : last]), x[:, :, last:]], dim=2)
                for x in (query, key)
            )
        stacked = torch.stack([query, key, value], dim=2)  # (B, H, 3, T, W / H)
        return attend(stacked.permute(0, 3, 2, 1, 4).reshape(batch, length, -1), num_heads, mask, causal)


def _rotary_qkv(attention: nn.Module, x: Tensor) -> Tensor:
    """(..., W) -> (..., 3W), whether timm keeps one matrix or three, and biases in it or apart."""
    if attention.qkv is None:
        return torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], dim=-1)
    biases = getattr(attention, "q_bias", None)
    if biases is None or isinstance(attention.qkv, SplitLinear):
        return attention.qkv(x)
    return F.linear(x, attention.qkv.weight, torch.cat([attention.q_bias, attention.k_bias, attention.v_bias]))


def _scaled(block: nn.Module, name: str, x: Tensor) -> Tensor:
    scale = getattr(block, name)  # as it is now: training may put another parameter in its place
    return x if scale is None else scale * x


class TimmMapTower(_TimmHead, ImageTower):
    """timm's convolutional towers, whose last map is averaged."""

    def __init__(self, visual: nn.Module):
        self.visual, self.trunk = visual, visual.trunk
        self.cell = self.trunk.feature_info[-1]["reduction"]

    def maps(self, pixels: Tensor) -> list[Tensor]:
        last, maps = self.trunk.forward_intermediates(pixels)
        return [*maps[:-1], last]

    def hidden(self, pixels: Tensor) -> Tensor:
        return self._pooled(self.maps(pixels)[-1])

    def _pooled(self, last: Tensor) -> Tensor:
        return self.trunk.forward_head(last, pre_logits=True)

    def _cells(self, last: Tensor) -> Tensor:
        """(B, W, h, w) -> (B, P, W'): each cell as if it alone were pooled."""
        alone = last.permute(0, 2, 3, 1).reshape(-1, last.shape[1], 1, 1)  # (B * P, W, 1, 1)
        return self._pooled(alone).view(last.shape[0], last.shape[2] * last.shape[3], -1)

    def pool_map(self, last: Tensor) -> Tensor:
        whole = self._pooled(last)[:, None]  # (B, 1, W')
        return self.project(torch.cat([whole, self._cells(last)], dim=1))

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        last = self.maps(pixels)[-1]
        return self.project(self._cells(last)), (last.shape[-2], last.shape[-1])
