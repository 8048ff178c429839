"""Which tokens of an image and of a text say most of it, and one embedding of them: RDE's token selection.

Noisy-Correspondence Learning for Text-to-Image Person Re-identification, 2024, arXiv 2308.09911.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone
from ....core.errors import CapabilityError


class TokenEmbedding(nn.Module):
    """(B, K, D) tokens -> (B, E): each of unit length through a linear layer plus an MLP, and the highest of all.

    Args:
        width: D.
        hidden: width of the MLP's hidden layer, behind which is BatchNorm.
        out: E.
    """

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.first, self.norm, self.second = nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, out)

    def forward(self, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """Args:
        counts: (B,) how many of the first tokens take part, one at least; None: all. Those after them count for
            BatchNorm alone, as released.
        """
        unit = F.normalize(tokens, dim=-1)
        inside = self.norm(self.first(unit).flatten(0, 1)).relu().unflatten(0, unit.shape[:2])
        each = self.second(inside) + self.linear(unit)  # (B, K, E)
        if counts is not None:
            beyond = torch.arange(each.shape[1], device=each.device) >= counts.clamp(min=1)[:, None]
            each = each.masked_fill(beyond[..., None], -torch.inf)
        return each.amax(dim=1)


def selected(tokens: Tensor, scores: Tensor, allowed: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The `count` tokens of highest scores.

    Args:
        tokens: (B, T, D).
        scores: (B, T).
        allowed: (B, T) bool, or None for all.
        count: K.

    Returns:
        (B, K, D), the highest first, and (B,) how many of these are allowed.
    """
    if allowed is None:
        allowed = torch.ones_like(scores, dtype=torch.bool)
    index = scores.masked_fill(~allowed, -torch.inf).topk(count, dim=1).indices
    chosen = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
    return chosen, allowed.sum(dim=1).clamp(max=count)


def number_of_patches(patches: int, ratio: float) -> int:
    """How many patches are selected of an image."""
    return max(1, int(patches * ratio))


def number_of_words(length: int, ratio: float) -> int:
    """How many tokens are selected of a text.

    Args:
        length: of all texts, with start, end and padding.
    """
    return max(1, int((length - 2) * ratio))


def image_and_patches(backbone: Backbone, pixels: Tensor, ratio: float, by_attention: bool) -> tuple[Tensor, Tensor]:
    """(B, D) features of the image, not normalised, and (B, K, D) those of its selected patches, in one pass.

    Args:
        by_attention: of a class token (`check_class_token`); else patches are selected by their cosine with the whole.
    """
    if not by_attention:
        made = backbone.image_outputs(pixels, frozenset({"image_embedding", "image_tokens"}))
        whole, patches = made["image_embedding"], made["image_tokens"]
        scores = _cosines(patches, whole)
    else:
        x, attention = _through_blocks(backbone, "image", backbone.embed_image(pixels), None)
        whole, patches = backbone.pool_image(x, normalize=False), backbone.project_patches(x)
        scores = attention[:, backbone.image_prefix :]
    return whole, selected(patches, scores, None, number_of_patches(patches.shape[1], ratio))[0]


def text_and_words(
    backbone: Backbone, tokens: Tensor, ratio: float, by_attention: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) features of the text, not normalised, (B, K, D) those of its selected words, and (B,) how many they are.
    The start, the end and padding are never words."""
    mask = backbone.token_mask(tokens)
    x = backbone.embed_prompt(backbone.embed_tokens(tokens), mask)
    x, attention = _through_blocks(backbone, "text", x, mask) if by_attention else (_run(backbone, x, mask), None)
    whole, alone = backbone.pool_text(x, mask, normalize=False), x.flatten(0, 1)[:, None]  # (B * L, 1, W)
    ones = torch.ones(len(alone), 1, dtype=torch.bool, device=x.device)
    words = backbone.pool_text(alone, ones, normalize=False).unflatten(0, x.shape[:2])  # (B, L, D)
    scores = _cosines(words, whole) if attention is None else attention
    return whole, *selected(words, scores, backbone.word_mask(tokens), number_of_words(tokens.shape[1], ratio))


def attention_of(block, x: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T) attention of one query of each row, the mean over heads.

    Args:
        block: of a tower.
        x: (B, T, W), what its attention is given.
        query: (B,) positions.
        mask: (B, T) bool, keys that may be looked at, or None.
    """
    stacked = block.qkv(x).unflatten(-1, (3, block.num_heads, -1))  # (B, T, 3, H, d)
    own = stacked[torch.arange(len(x), device=x.device), query, 0]  # (B, H, d)
    logits = torch.einsum("bhd,bthd->bht", own, stacked[:, :, 1]).float() * own.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], -torch.inf)
    return logits.softmax(dim=-1).mean(dim=1)


def _run(backbone: Backbone, x: Tensor, mask: Tensor) -> Tensor:
    return backbone.run_blocks("text", x, mask=mask)


def _through_blocks(backbone: Backbone, tower: str, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the last block gives, and the attention in it of the first token (image) or the last valid one (text)."""
    last, noted = len(backbone.blocks(tower)) - 1, []
    x = backbone.run_blocks(tower, x, stop=last, mask=mask)

    def note(i: int, block, normal: Tensor) -> Tensor:
        noted.append((block, normal))
        return torch.zeros_like(normal)

    with torch.no_grad():
        backbone.run_blocks(tower, x, start=last, attention=note, mask=mask)
        block, normal = noted[0]
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        place = torch.arange(x.shape[1], device=x.device)
        query = first if mask is None else (mask * place).argmax(dim=1)
        attention = attention_of(block, normal, query, mask)
    return backbone.run_blocks(tower, x, start=last, mask=mask), attention


def _cosines(tokens: Tensor, whole: Tensor) -> Tensor:
    return (F.normalize(tokens, dim=-1) * F.normalize(whole, dim=-1)[:, None]).sum(dim=-1).detach()


def check_class_token(backbone: Backbone) -> None:
    """Raise CapabilityError unless the image tower has the attention of a class token."""
    if "image_blocks" not in backbone.capabilities or not backbone.image_prefix:
        raise CapabilityError(
            f"loss 'rde' selects patches by the attention of a class token, which backbone '{backbone.spec}' has not; "
            "give the loss select_by=similarity (--set adapter.loss_options.rde.select_by=similarity)"
        )
