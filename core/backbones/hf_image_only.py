"""The steps of transformers' image towers that have no text tower beside them: DINOv2, with and without registers
(arXiv 2304.07193, 2309.16588), DINOv3 (arXiv 2508.10104), and what has their shape (RAD-DINO, arXiv 2401.10815); ViT
(arXiv 2010.11929) and DeiT (arXiv 2012.12877), the image towers of CLIP and SigLIP alone, ConvNeXt (arXiv 2201.03545,
2301.00808), ResNet (arXiv 1512.03385) and Swin (arXiv 2103.14030, 2111.09883).

Their feature is what transformers' own classifier of images is put on: `pooler_output`, which is the normed class token
of DINO and CLIP, SigLIP's attention pooling, and the mean of the last map of the others, normed where they have a norm;
of ViT and DeiT the normed class token, since what `pooler_output` adds is not in the weights of their classifiers.
CLIP's is not projected.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..contracts.backbone import Block
from .hf_towers import ClipImageTower, layer_block, vision_of
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

    def patch_layer(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection


class Dinov3Tower(ImageTower):
    """DINOv3: queries and keys of the patches are turned by where they lie, in every block."""

    turned = True

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

    def patch_layer(self) -> nn.Module:
        return self.embeddings.patch_embeddings

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


class VitTower(ImageTower):
    """ViT and DeiT: learned positions, resampled as transformers does, and DeiT's second token behind the class's."""

    def __init__(self, model: nn.Module):
        self.model, self.embeddings = model, model.embeddings
        self.prefix = 1 + hasattr(self.embeddings, "distillation_token")
        layers = model.layers if hasattr(model, "layers") else model.encoder.layer  # before transformers 5
        self.blocks = [_vit_block(layer) for layer in layers]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        rows, columns = self.embeddings.patch_embeddings.patch_size
        return pixels.shape[-2] // rows, pixels.shape[-1] // columns

    def start(self, pixels: Tensor) -> Tensor:
        return self.embeddings(pixels, interpolate_pos_encoding=True)

    def pool(self, x: Tensor) -> Tensor:
        return self.model.layernorm(x[:, 0])

    def patch_layer(self) -> nn.Module:
        return self.embeddings.patch_embeddings.projection


class ClipVisionTower(ClipImageTower):
    """CLIP's vision transformer alone: its feature is not projected."""

    def __init__(self, model: nn.Module):
        self.vision = vision_of(model)
        self.blocks = [layer_block(layer) for layer in self.vision.encoder.layers]

    def project(self, hidden: Tensor) -> Tensor:
        return hidden

    def matrix(self) -> None:
        return None


class StagesTower(ImageTower):
    """Stages whose last map is averaged: ConvNeXt's is normed after it, Swin's before, a ResNet's never."""

    def __init__(self, model: nn.Module):
        self.model, kind = model, model.config.model_type
        norm = {"resnet": "pooler", "dinov3_convnext": "layer_norm"}.get(kind, "layernorm")
        self.norm = nn.Identity() if kind == "resnet" else getattr(model, norm)
        self.is_swin = kind.startswith("swin")
        depth = len(model.config.depths) - 1
        self.cell = getattr(model.config, "patch_size", 4) * 2**depth

    def maps(self, pixels: Tensor) -> list[Tensor]:
        made = self.model(pixel_values=pixels, output_hidden_states=True)
        return list((made.reshaped_hidden_states if self.is_swin else made.hidden_states)[1:])

    def hidden(self, pixels: Tensor) -> Tensor:
        return self.pool_map(self.maps(pixels)[-1])[:, 0]

    def pool_map(self, last: Tensor) -> Tensor:
        cells = last.flatten(2).transpose(1, 2)  # (B, P, W)
        whole = self.norm(cells).mean(dim=1) if self.is_swin else self.norm(cells.mean(dim=1))
        return torch.cat([whole[:, None], self.norm(cells)], dim=1)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        last = self.maps(pixels)[-1]
        return self.pool_map(last)[:, 1:], (last.shape[-2], last.shape[-1])


def _vit_block(layer: nn.Module) -> Block:
    attention = layer.attention
    if hasattr(attention, "attention"):  # before transformers 5 ViT's layers had BERT's names
        inner = attention.attention
        projections, out = (inner.query, inner.key, inner.value), attention.output.dense
        num_heads, mlp = inner.num_attention_heads, nn.Sequential(layer.intermediate, layer.output.dense)
    else:
        projections, out = (attention.q_proj, attention.k_proj, attention.v_proj), attention.o_proj
        mlp = layer.mlp
        num_heads = projections[0].out_features // attention.head_dim
    return pre_norm_block(
        ln_1=layer.layernorm_before,
        qkv=partial(_stacked, projections),
        out=out,
        ln_2=layer.layernorm_after,
        mlp=mlp,
        num_heads=num_heads,
        module=layer,
        of=_vit_block,
    )


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
