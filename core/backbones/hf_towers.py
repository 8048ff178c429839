"""The steps of transformers' towers: CLIP's and SigLIP's ViTs, ALIGN's EfficientNet, CLIP, SigLIP and BERT texts."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..contracts.backbone import Block
from .checkpoints import resize_positions
from .native_aspect import unpacked
from .positions import ImagePositions, ProjectionMatrix
from .tower_steps import ImageTower, TextTower, at_last_valid, post_norm_block, pre_norm_block


def layer_block(layer: nn.Module) -> Block:
    """An encoder layer of CLIP or SigLIP."""
    attention = layer.self_attn
    return pre_norm_block(
        ln_1=layer.layer_norm1,
        qkv=partial(_stacked, (attention.q_proj, attention.k_proj, attention.v_proj)),
        out=attention.out_proj,
        ln_2=layer.layer_norm2,
        mlp=layer.mlp,
        num_heads=attention.num_heads,
        module=layer,
        of=layer_block,
    )


def vision_of(model: nn.Module) -> nn.Module:
    """The vision transformer of a model of two towers, or of one alone, which transformers spells either way."""
    return getattr(model, "vision_model", model)


def bert_block(layer: nn.Module) -> Block:
    """A layer of BERT or RoBERTa."""
    attention = layer.attention.self
    return post_norm_block(
        ln_1=layer.attention.output.LayerNorm,
        qkv=partial(_stacked, (attention.query, attention.key, attention.value)),
        out=layer.attention.output.dense,
        ln_2=layer.output.LayerNorm,
        mlp=nn.Sequential(layer.intermediate, layer.output.dense),
        num_heads=attention.num_attention_heads,
        module=layer,
    )


def _stacked(projections: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    return torch.cat([projection(x) for projection in projections], dim=-1)


class ClipImageTower(ImageTower):
    """The vision transformer of CLIP, Chinese-CLIP, AltCLIP and MetaCLIP 2."""

    prefix = 1

    def __init__(self, model: nn.Module):
        self.vision, self.projection = model.vision_model, model.visual_projection
        self.blocks = [layer_block(layer) for layer in self.vision.encoder.layers]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        patch = self.vision.embeddings.patch_size
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def start(self, pixels: Tensor) -> Tensor:
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (B, P, W)
        first = embeddings.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        positions = resize_positions(embeddings.position_embedding.weight, self.grid(pixels), self.prefix)
        return torch.cat([first, patches], dim=1) + positions

    def enter(self, x: Tensor) -> Tensor:
        return self.vision.pre_layrnorm(x)

    def positions(self) -> ImagePositions:
        """Where positions are added to the patches."""
        return _positions(self.vision, self.prefix)

    def pool(self, x: Tensor) -> Tensor:
        return self.vision.post_layernorm(x[:, 0])

    def project(self, hidden: Tensor) -> Tensor:
        return self.projection(hidden)

    def matrix(self) -> ProjectionMatrix | None:
        return ProjectionMatrix.of(self.projection)


class OwlImageTower(ClipImageTower):
    """The vision transformer of OWL-ViT and OWLv2: CLIP's, trained to detect."""

    def enter(self, x: Tensor) -> Tensor:
        return self.vision.pre_layernorm(x)


class SiglipImageTower(ImageTower):
    """The vision transformer of SigLIP: no class token, pooled by attention, no projection."""

    def __init__(self, model: nn.Module):
        self.vision = vision_of(model)
        self.blocks = [layer_block(layer) for layer in self.vision.encoder.layers]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        patch = self.vision.embeddings.patch_size
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def start(self, pixels: Tensor) -> Tensor:
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (B, P, W)
        return patches + resize_positions(embeddings.position_embedding.weight, self.grid(pixels), self.prefix)

    def positions(self) -> ImagePositions | None:
        """Where positions are added to the patches, None where they do not come as a grid."""
        return _positions(self.vision, self.prefix)

    def pool(self, x: Tensor) -> Tensor:
        return self.vision.head(self.vision.post_layernorm(x))


class NaflexImageTower(SiglipImageTower):
    """SigLIP 2's vision transformer for any aspect ratio.

    Attributes:
        native: whether it is given rows of patches (`native_aspect.py`), not squares.
    """

    native = False

    def hidden(self, pixels: Tensor) -> Tensor:
        if not self._is_row(pixels):
            return super().hidden(pixels)
        return self.vision(*self.patches(pixels)).pooler_output

    def _is_row(self, pixels: Tensor) -> bool:
        return self.native and self.grid(pixels)[0] == 1

    def positions(self) -> None:
        """None: the patches come as rows."""
        return None

    def start(self, pixels: Tensor) -> Tensor:
        return self.vision.embeddings(*self.patches(pixels)[::2])

    def patches(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> patches (B, P, p * p * 3), a mask (B, P), the grid (B, 2)."""
        patch, (rows, columns) = self.vision.embeddings.patch_size, self.grid(pixels)
        if self._is_row(pixels):
            return unpacked(pixels, patch)
        pixels = pixels[..., : rows * patch, : columns * patch]
        cut = pixels.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))  # (B, 3, h, p, w, p)
        flat = cut.permute(0, 2, 4, 3, 5, 1).reshape(pixels.shape[0], rows * columns, -1)
        mask = torch.ones(flat.shape[:2], dtype=torch.long, device=flat.device)
        grid = torch.tensor([[rows, columns]], device=flat.device).expand(flat.shape[0], 2)
        return flat, mask, grid


def _positions(vision: nn.Module, prefix: int) -> ImagePositions:
    embeddings = vision.embeddings
    return ImagePositions(embeddings.patch_embedding, embeddings.position_embedding, "weight", prefix)


class AlignImageTower(ImageTower):
    """ALIGN's EfficientNet: its last map, averaged, is the feature."""

    def __init__(self, model: nn.Module):
        self.vision = model.vision_model

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The last map of each resolution, the four deepest."""
        x, maps = self.vision.embeddings(pixels), []
        for block in self.vision.encoder.blocks:
            deeper = block(x)
            if deeper.shape[-1] < x.shape[-1]:
                maps.append(x)
            x = deeper
        return [*maps, x][-4:]

    def hidden(self, pixels: Tensor) -> Tensor:
        return self.vision.pooler(self.maps(pixels)[-1]).flatten(1)

    def pool_map(self, last: Tensor) -> Tensor:
        return torch.cat([self.vision.pooler(last).flatten(2), last.flatten(2)], dim=2).transpose(1, 2)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        last = self.maps(pixels)[-1]
        return last.flatten(2).transpose(1, 2), (last.shape[-2], last.shape[-1])


class ClipTextTower(TextTower):
    """CLIP's causal text transformer, read at end-of-text."""

    causal = True

    def __init__(self, model: nn.Module):
        self.text, self.projection = model.text_model, model.text_projection
        self.table = self.text.embeddings.token_embedding
        self.blocks = [layer_block(layer) for layer in self.text.encoder.layers]

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return embeddings + self.text.embeddings.position_embedding.weight[: embeddings.shape[1]]

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.projection(self.text.final_layer_norm(at_last_valid(x, mask)))


class SiglipTextTower(TextTower):
    """SigLIP's text transformer: every position sees all, padding too, and the last one is read."""

    def __init__(self, model: nn.Module):
        self.text = model.text_model
        self.table = self.text.embeddings.token_embedding
        self.blocks = [layer_block(layer) for layer in self.text.encoder.layers]

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return embeddings + self.text.embeddings.position_embedding.weight[: embeddings.shape[1]]

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.text.head(self.text.final_layer_norm(x[:, -1]))


class BertTextTower(TextTower):
    """The BERT of Chinese-CLIP and ALIGN, read at its first token."""

    masked = True

    def __init__(self, model: nn.Module):
        self.projection = model.text_projection
        self.bert = self.find_bert(model)
        self.table = self.bert.embeddings.word_embeddings
        encoder = self.bert.encoder
        layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer  # spelled either way in transformers
        self.blocks = [bert_block(layer) for layer in layers]

    def find_bert(self, model: nn.Module) -> nn.Module:
        return model.text_model

    def positions(self, mask: Tensor) -> Tensor:
        """(N, L) or (L,) indices into the table of positions."""
        return torch.arange(mask.shape[1], device=mask.device)

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        table = self.bert.embeddings
        first_kind = table.token_type_embeddings.weight[0]
        return table.LayerNorm(embeddings + first_kind + table.position_embeddings(self.positions(mask)))

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.projection(x[:, 0])


class RobertaTextTower(BertTextTower):
    """AltCLIP's XLM-RoBERTa: positions count valid tokens only, and a linear map stands before the projection."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.head = model.text_model

    def find_bert(self, model: nn.Module) -> nn.Module:
        return model.text_model.roberta

    def positions(self, mask: Tensor) -> Tensor:
        return mask.long().cumsum(dim=1) * mask + self.bert.embeddings.padding_idx

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.projection(self.head.transformation(self.head.pre_LN(x[:, 0])))
