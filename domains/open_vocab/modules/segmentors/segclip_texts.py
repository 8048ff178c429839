"""Captions and class names through a text tower that is being trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.contracts.backbone import Backbone
from .....core.training.masked_words import words_of
from ...vocabulary import Vocabulary
from ..losses.masked_decoder import Kept, keep_some

TEXTS_AT_ONCE = 256


def caption_tokens(backbone: Backbone, captions: Sequence[str], max_words: int) -> Tensor:
    """(B, L) tokens, at most `max_words` where the tower takes shorter texts; a longer caption is cut, its end kept."""
    tokens = backbone.tokenize(captions).to(backbone.device)
    if "trim" not in backbone.capabilities:
        return tokens
    last = backbone.token_mask(tokens).sum(dim=1) - 1
    ends = tokens.gather(1, last[:, None])[:, 0]
    longest = min(max_words, int(last.max()) + 1)
    cut = tokens[:, :longest].clone()
    cut[:, -1] = torch.where(last >= longest, ends, cut[:, -1])
    return cut


def part_of_captions(backbone: Backbone, tokens: Tensor, hidden_share: float) -> tuple[Tensor, Kept, Tensor]:
    """The tower's view of captions from which words were taken out.

    The released code lets the words that stay come in a random order, which a causal tower does not survive; here they
    keep theirs.

    Returns:
        (B, K, D) features of the tokens that stay, which they are, and (B, L) bool: the words that do not.
    """
    mask = backbone.token_mask(tokens)
    words = words_of(backbone, tokens)
    count = max(int((mask & ~words).sum(dim=1).max()), int(tokens.shape[1] * (1 - hidden_share)))
    kept = keep_some(count, tokens.shape, tokens.device, forced=mask & ~words)
    x = kept.of(backbone.embed_prompt(*_padded(backbone, backbone.embed_tokens(tokens), mask))[:, : tokens.shape[1]])
    stay = kept.of(mask)
    x = backbone.run_blocks("text", x, mask=stay)
    alone = torch.ones(x.shape[0] * x.shape[1], 1, dtype=torch.bool, device=x.device)
    features = backbone.pool_text(x.reshape(-1, 1, x.shape[-1]), alone, normalize=False)
    return features.unflatten(0, x.shape[:2]), kept, kept.hidden & words


@torch.no_grad()
def class_features(backbone: Backbone, vocabulary: Vocabulary, leave_out: int | None = None) -> Tensor:
    """(C, D) unit rows: of a class the mean of its queries, each the mean of its texts; one class may be left out."""
    classes = [index for index in range(len(vocabulary)) if index != leave_out]
    asked = [
        (classes.index(owner), query)
        for owner, query in zip(vocabulary.owners, vocabulary.queries)
        if owner != leave_out
    ]
    texts = list(dict.fromkeys(text for _, query in asked for text in query))
    place = {text: row for row, text in enumerate(texts)}
    chunks = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    encoded = torch.cat([backbone.encode_text(chunk) for chunk in chunks])  # (T, D)
    queries = torch.stack([encoded[[place[text] for text in query]].mean(dim=0) for _, query in asked])
    owners = torch.tensor([owner for owner, _ in asked], device=encoded.device)
    sums = encoded.new_zeros(len(classes), encoded.shape[1])
    return F.normalize(sums.index_add_(0, owners, F.normalize(queries, dim=1)), dim=1)


def _padded(backbone: Backbone, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Up to the context length, for towers that take no shorter prompt."""
    short = 0 if "trim" in backbone.capabilities else backbone.context_length - embeddings.shape[1]
    return F.pad(embeddings, (0, 0, 0, short)), F.pad(mask, (0, short))
