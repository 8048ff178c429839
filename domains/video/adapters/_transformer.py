"""CLIP's residual attention blocks over the frames of a clip, and their start from the first blocks of a text tower.

Modules carry the names of CLIP's own (Radford et al., 2021, arXiv 2103.00020): `resblocks.0.attn.in_proj_weight`, ...
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone, Block, require
from ._frames import POSITIONS

INIT_STD = 0.02
ALIKE = 0.05
"""How far, as a share of what a block adds, the copy of a text tower's block may be from it: QuickGELU for GELU is
within."""


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation of CLIP's first models."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    """Attention and an MLP of four times the width, each normalised before and added to its input.

    Args:
        width: D. heads: of the attention.
        eps: of the layer norms.
    """

    def __init__(self, width: int, heads: int, eps: float):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, key_padding_mask=~mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Blocks in a row over tokens (B, T, D), of which those in `mask` (B, T) are looked at.

    Args:
        width: D. layers: how many blocks. heads: of each.
        eps: of the layer norms; CLIP4Clip and its descendants have 1e-12.
    """

    def __init__(self, width: int, layers: int, heads: int, eps: float = 1e-12):
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads, eps) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


def heads_of(width: int, heads: int | None) -> int:
    """How many heads attention has: those given, or one for each 64 channels as in CLIP, as far as they divide it.

    Raises:
        ConfigError: those given do not divide the width.
    """
    if heads is not None:
        require(width % heads == 0, "heads", heads, f"give a number that divides the width of the features, {width}")
        return heads
    return next(count for count in range(max(1, width // 64), 0, -1) if width % count == 0)


def as_clip4clip_starts(module: nn.Module, gain: float = 1.0) -> None:
    """Weights of linear layers and embeddings from N(0, 0.02^2), biases 0, norms 1 and 0: for `Module.apply`.

    Args:
        gain: factor on the deviation in linear layers.
    """
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD * (gain if isinstance(module, nn.Linear) else 1.0))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def take_text_blocks(
    backbone: Backbone | None,
    transformers: list[nn.ModuleList],
    positions: nn.Embedding | None = None,
    axes: Tensor | None = None,
) -> str:
    """Let blocks, and positions, start from the first of the text tower, in place, where it has such blocks.

    Args:
        backbone: whose text tower is looked at, or None.
        transformers: lists of `ResidualBlock`; each starts from the first block on.
        positions: an embedding of places.
        axes: (D, W) that they read in place of features, which no text tower has blocks for; or None.

    Returns:
        In words, for a note, where they start from.
    """
    if axes is not None:
        return f"temporal layers start at random, on {axes.shape[1]} axes: frames and texts span no more of {len(axes)}"
    if (reason := _unlike(backbone, transformers[0][0])) is not None:
        return f"temporal layers start at random: {reason}"
    blocks = backbone.blocks("text")
    for ours in transformers:
        for mine, theirs in zip(ours, blocks):
            _copy(mine, theirs)
    if positions is not None:
        table = text_positions(backbone)[: len(positions.weight)]
        positions.weight[: len(table)] = table.to(positions.weight)
    return "temporal layers start from the first blocks of the text tower"


@torch.no_grad()
def text_positions(backbone: Backbone) -> Tensor:
    """(L, W), what the text tower adds to its words: what it makes of words that are zero."""
    table = backbone.embed_tokens(backbone.tokenize(["a"]))
    words = table.new_zeros(1, backbone.context_length, table.shape[-1])
    return backbone.embed_prompt(words, torch.ones(words.shape[:2], dtype=torch.bool, device=words.device))[0]


def positions_table(width: int) -> nn.Embedding:
    """Learned positions of frames."""
    return nn.Embedding(POSITIONS, width)


def _unlike(backbone: Backbone | None, block: ResidualBlock) -> str | None:
    """Why a text tower has no blocks of this kind; None where it has."""
    if backbone is None or not {"text_blocks", "prompt"} <= backbone.capabilities:
        return "there are no text blocks to start from"
    theirs = backbone.blocks("text")[0]
    device = next(theirs.out.parameters()).device
    width = next(p.shape[0] for p in theirs.out.parameters() if p.ndim == 2)
    if width != len(block.ln_1.weight):
        return f"the text tower is {width} wide, features are {len(block.ln_1.weight)}"
    copy = ResidualBlock(width, block.attn.num_heads, block.ln_1.eps).to(device)
    x = torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        _copy(copy, theirs)
    except (RuntimeError, ValueError, AttributeError):
        return "the text tower has blocks of another kind"
    wanted, mine = theirs(x) - x, copy(x, torch.ones(1, 6, dtype=torch.bool, device=device)) - x
    alike = float((mine - wanted).norm() / wanted.norm()) < ALIKE
    return None if alike else "the text tower has blocks of another kind"


def _copy(ours: ResidualBlock, theirs: Block) -> None:
    """The weights of one block, whatever library holds them: the stacked projection is read off unit vectors."""
    width = len(ours.ln_1.weight)
    unit = torch.eye(width, device=next(theirs.out.parameters()).device)
    bias = theirs.qkv(torch.zeros_like(unit[:1]))  # (1, 3 * W)
    ours.attn.in_proj_weight.copy_((theirs.qkv(unit) - bias).T)
    ours.attn.in_proj_bias.copy_(bias[0])
    for mine, other in ((ours.attn.out_proj, theirs.out), (ours.ln_1, theirs.ln_1), (ours.ln_2, theirs.ln_2)):
        mine.weight.copy_(other.weight)
        mine.bias.copy_(other.bias)
    first, second = (layer for layer in _modules(theirs.mlp) if isinstance(layer, nn.Linear))
    for mine, other in ((ours.mlp.c_fc, first), (ours.mlp.c_proj, second)):
        mine.weight.copy_(other.weight)
        mine.bias.copy_(other.bias)


def _modules(mlp) -> list[nn.Module]:
    return list(mlp.modules()) if isinstance(mlp, nn.Module) else []
