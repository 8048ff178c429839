"""Features of the single tokens of class texts, in the space of the frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....core.contracts import Backbone, TextClassifier
from ....core.prompts import Layout, spoken

TEXTS_AT_ONCE = 256


def class_texts(classifier: TextClassifier, class_names: Sequence[str]) -> list[str]:
    """The first text of each class, or its name where the classifier has none."""
    if classifier.texts is not None:
        return [texts[0] for texts in classifier.texts]
    return [spoken(name) for name in class_names]


@torch.no_grad()
def token_features(backbone: Backbone, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What the text tower makes of each token, as if it alone were pooled, not normalised.

    Returns:
        (N, L, D), and (N, L) bool, true for the words of a text and what ends it; not for what stands before them.
    """
    tokens = backbone.tokenize(texts).to(backbone.device)
    mask = backbone.token_mask(tokens)
    if "trim" in backbone.capabilities:
        longest = int(Layout.used_lengths(mask).max())
        tokens, mask = tokens[:, :longest], mask[:, :longest]
    parts = zip(tokens.split(TEXTS_AT_ONCE), mask.split(TEXTS_AT_ONCE))
    features = torch.cat([_of_some(backbone, *part) for part in parts])
    words = mask.clone()
    words[:, : Layout.of(backbone).lead] = False
    return features.masked_fill(~mask[..., None], 0), words


def _of_some(backbone: Backbone, tokens: Tensor, mask: Tensor) -> Tensor:
    x = backbone.run_blocks("text", backbone.embed_prompt(backbone.embed_tokens(tokens), mask), mask=mask)
    alone = x.reshape(-1, 1, x.shape[-1])  # (n * L, 1, W)
    pooled = backbone.pool_text(alone, torch.ones(alone.shape[:2], dtype=torch.bool, device=x.device), normalize=False)
    return pooled.view(*x.shape[:2], -1)
