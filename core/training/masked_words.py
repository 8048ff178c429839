"""Words hidden from a text tower, to be found again (masked language modelling).

BERT: Pre-training of Deep Bidirectional Transformers, 2018, arXiv 1810.04805: 15 % of the words; of these 80 % are
hidden, 10 % are another word, 10 % stay. CLIP's vocabulary has no word for "hidden"; a learnt embedding stands for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from .tower_passes import text_tokens

SHARE = 0.15
HIDDEN, REPLACED = 0.8, 0.1
IGNORED = -100


class MaskedWords(nn.Module):
    """Masked captions through the text tower. What is hidden of a sample is a function of the sample's own lots."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self._held = [backbone]
        width = backbone.embed_tokens(backbone.tokenize(["a"])).shape[-1]
        self.hidden = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, tokens: Tensor, lots: Tensor) -> dict[str, Tensor]:
        """Tokens (B, L) and lots (B, 4, K) in 0..1 -> "masked_tokens" (B, L, W) and "masked_labels" (B, L), -100 where
        nothing is asked."""
        backbone = self._held[0]
        chosen, fate, other = (lots_for(lots, row, tokens.shape[1]) for row in range(3))
        asked = words_of(backbone, tokens) & (chosen < SHARE)
        others = (other * backbone.vocab_size).long()
        shown = torch.where(asked & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), others, tokens)
        embeddings = backbone.embed_tokens(shown)
        embeddings = torch.where((asked & (fate < HIDDEN))[..., None], self.hidden.to(embeddings.dtype), embeddings)
        labels = torch.where(asked, tokens, IGNORED)
        return {"masked_tokens": text_tokens(backbone, tokens, embeddings), "masked_labels": labels}


def lots_for(lots: Tensor, row: int, count: int) -> Tensor:
    """(B, 4, K) -> (B, count): one number each, used again where there are more than K."""
    return lots[:, row, torch.arange(count, device=lots.device) % lots.shape[2]]


def words_of(backbone: Backbone, tokens: Tensor) -> Tensor:
    """(B, L) bool: tokens of the text itself, without its start and its end."""
    mask = backbone.token_mask(tokens)
    inner = mask.clone()
    inner[:, 0] = False
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    inner[torch.arange(len(inner), device=inner.device), last] = False
    return inner
