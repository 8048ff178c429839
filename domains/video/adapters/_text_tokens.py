"""Sentences as heads read them: whole, and by the features of their single tokens, in the space of the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ....core.contracts import Backbone, TextClassifier, spoken
from ....core.features import FeatureStore
from ....core.prompts import TokenLayout

TEXTS_AT_ONCE = 256
REMEMBERED_BYTES = 1 << 30
"""Of what was read of sentences, kept while a head is fitted and used; what goes beyond is encoded again."""


@dataclass(frozen=True)
class Sentences:
    """N texts.

    Args:
        whole: (N, D) unit.
        tokens: (N, L, D) features of tokens, not normalised, zero behind the last; None where they are not read.
        words: (N, L) bool, true for the words of a text and what ends it; not for what stands before them.
    """

    whole: Tensor
    tokens: Tensor | None = None
    words: Tensor | None = None


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
    tokens = tokens[:, : _longest(backbone, tokens)]
    read = [encoded_sentences(backbone, some) for some in tokens.split(TEXTS_AT_ONCE)]
    return torch.cat([each.tokens for each in read]), torch.cat([each.words for each in read])


def encoded_sentences(backbone: Backbone, tokens: Tensor) -> Sentences:
    """(N, L) tokens through the text tower once, both ways; with gradients, where these are wanted."""
    mask = backbone.token_mask(tokens)
    x = backbone.run_blocks("text", backbone.embed_prompt(backbone.embed_tokens(tokens), mask), mask=mask)
    alone = x.reshape(-1, 1, x.shape[-1])  # (N * L, 1, W)
    pooled = backbone.pool_text(alone, torch.ones(alone.shape[:2], dtype=torch.bool, device=x.device), normalize=False)
    words = mask.clone()
    words[:, : TokenLayout.of(backbone).lead] = False
    features = pooled.view(*x.shape[:2], -1).masked_fill(~mask[..., None], 0)
    return Sentences(backbone.pool_text(x, mask), features, words)


class SentenceReader:
    """Sentences through the text tower of a frozen backbone, each once as long as memory lasts.

    Args:
        backbone: whose text tower.
        tokens: whether their single tokens are read, too; without them they go through the store.
        keep: whether the store may keep them: towers that a fit made are not met again.
    """

    def __init__(self, backbone: Backbone, tokens: bool, keep: bool = True):
        self.backbone, self.tokens, self._left = backbone, tokens, REMEMBERED_BYTES
        self._store = FeatureStore(keep=keep)
        self._kept: dict[str, tuple[Tensor, ...]] = {}

    def __call__(self, texts: Sequence[str]) -> Sentences:
        """What they are read as, on the device of the backbone."""
        new = self.remember(texts)
        columns = list(zip(*(self._kept.get(text) or new[text] for text in texts)))
        device = self.backbone.device
        if not self.tokens:
            return Sentences(torch.stack(columns[0]).to(device))
        padded = [pad_sequence(list(column), batch_first=True).to(device) for column in columns[1:]]
        return Sentences(torch.stack(columns[0]).to(device), *padded)

    @torch.no_grad()
    def remember(self, texts: Sequence[str]) -> dict[str, tuple[Tensor, ...]]:
        """Read what is new of some texts; gives it, as far as there is no room to keep it."""
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        beyond = {}
        for start in range(0, len(new), TEXTS_AT_ONCE):
            some = new[start : start + TEXTS_AT_ONCE]
            for text, row in zip(some, self._read(some)):
                size = sum(part.nbytes for part in row)
                if size <= self._left:
                    self._kept[text], self._left = row, self._left - size
                else:
                    beyond[text] = row
        return beyond

    def _read(self, texts: list[str]) -> list[tuple[Tensor, ...]]:
        """Of each text what is stacked: (D,), and (l, D) and (l,) of its tokens."""
        if not self.tokens:
            return [(row,) for row in F.normalize(self._store.text_features(self.backbone, texts), dim=-1)]
        tokens = self.backbone.tokenize(texts).to(self.backbone.device)
        read = encoded_sentences(self.backbone, tokens[:, : _longest(self.backbone, tokens)])
        assert read.tokens is not None and read.words is not None
        lengths = TokenLayout.used_lengths(read.words).tolist()
        rows = zip(read.whole.cpu(), read.tokens.cpu(), read.words.cpu(), lengths)
        return [(whole, features[:length].clone(), words[:length].clone()) for whole, features, words, length in rows]


def _longest(backbone: Backbone, tokens: Tensor) -> int:
    """How many columns of (N, L) tokens are to be read."""
    if "trim" not in backbone.capabilities:
        return tokens.shape[1]
    return int(TokenLayout.used_lengths(backbone.token_mask(tokens)).max())
