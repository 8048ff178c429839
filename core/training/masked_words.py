"""Words hidden from a text tower, to be found again (masked language modelling).

BERT: Pre-training of Deep Bidirectional Transformers, 2018, arXiv 1810.04805: 15 % of the words; of these 80 % are
hidden, 10 % are another word, 10 % stay. CLIP's vocabulary has no word for "hidden"; a learnt embedding stands for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone

SHARE = 0.15
HIDDEN, REPLACED = 0.8, 0.1
IGNORED = -100


class MaskedWords(nn.Module):
    """Masked captions through the text tower; draws from torch's generator, so that a replay hides the same words."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self._held = [backbone]
        width = backbone.embed_tokens(backbone.tokenize(["a"])).shape[-1]
        self.hidden = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """(B, L) -> {"masked_tokens": (B, L, W), "masked_labels": (B, L), -100 where nothing is asked}."""
        from .outputs import text_tokens

        backbone = self._held[0]
        asked = words_of(backbone, tokens) & (torch.rand(tokens.shape, device=tokens.device) < SHARE)
        lot = torch.rand(tokens.shape, device=tokens.device)
        others = tokens.flatten()[torch.randint(tokens.numel(), tokens.shape, device=tokens.device)]
        shown = torch.where(asked & (lot >= HIDDEN) & (lot < HIDDEN + REPLACED), others, tokens)
        embeddings = backbone.embed_tokens(shown)
        embeddings = torch.where((asked & (lot < HIDDEN))[..., None], self.hidden.to(embeddings.dtype), embeddings)
        labels = torch.where(asked, tokens, IGNORED)
        return {"masked_tokens": text_tokens(backbone, tokens, embeddings), "masked_labels": labels}


def words_of(backbone: Backbone, tokens: Tensor) -> Tensor:
    """(B, L) bool: tokens of the text itself, without its start and its end."""
    mask = backbone.token_mask(tokens)
    inner = mask.clone()
    inner[:, 0] = False
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    inner[torch.arange(len(inner), device=inner.device), last] = False
    return inner
