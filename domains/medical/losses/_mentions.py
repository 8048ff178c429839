"""Entities in captions: found by the tokens of the words that mention them, on whatever device the captions are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone
from ....core.errors import ConfigError, DataError
from ....core.losses import Draws
from ..reports.mentions import SUFFIXES, read_triples, words_of_entities
from ._co_attention import PADDING

LONGEST = 16
"""Tokens of a mention."""
TEXTS_AT_ONCE = 4096


def entity_words_in(value: Any) -> Any:
    """For `option`: a file of entities and their words, or an object of them itself."""
    return _content_of(value, words_of_entities)


def triples_in(value: Any) -> Any:
    """For `option`: a file of triples, or an object of heads with their tails itself."""
    return _content_of(value, read_triples)


def _content_of(value: Any, read: Any) -> Any:
    if not (isinstance(value, (str, Path)) and str(value).lower().endswith(SUFFIXES)):
        return value
    try:
        return read(Path(value))
    except DataError as error:
        raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class Mentions:
    """What captions mention, from left to right.

    Attributes:
        ids: (B, K) of entities, `PADDING` where there are no more.
        start, end: (B, K) of the first token, and of the one after the last; 0 where there are no more.
    """

    ids: Tensor
    start: Tensor
    end: Tensor

    def first(self, most: int) -> Mentions:
        """The leftmost of them."""
        return Mentions(self.ids[:, :most], self.start[:, :most], self.end[:, :most])

    def covers(self, length: int) -> Tensor:
        """(B, K, L) bool: which tokens are of each mention."""
        place = torch.arange(length, device=self.ids.device)
        return (place >= self.start[..., None]) & (place < self.end[..., None])


class Words(nn.Module):
    """The words of entities as tokens of a text tower, to be looked for in captions.

    All places of a caption are looked at, for words of each number of tokens. Of words within longer ones only the
    longer ones count; where several entities share words, the first of them does.

    Args:
        words: of each entity.
        backbone: whose tokens they become; what is longer than `LONGEST` or the text tower is left out.
    """

    def __init__(self, words: Sequence[Sequence[str]], backbone: Backbone):
        super().__init__()
        texts = [(text, entity) for entity, some in enumerate(words) for text in some]
        keys: list[dict[int, int]] = [{} for _ in range(LONGEST)]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            for lead in ("", "a "):  # towers whose words at the start of a text are other tokens
                tokens, entities = backbone.tokenize([lead + text for text, _ in some]), [entity for _, entity in some]
                self._add(keys, tokens, backbone.word_mask(tokens), entities, len(lead.split()))
        for length, of_length in enumerate(keys, start=1):
            pairs = sorted(of_length.items())
            for name, column in zip(("keys", "entities"), zip(*pairs) if pairs else ((), ())):
                self.register_buffer(f"{name}_{length}", torch.tensor(column, dtype=torch.int64), persistent=False)
        self.longest = max((length for length, of_length in enumerate(keys, start=1) if of_length), default=0)

    @staticmethod
    def _add(keys: list[dict[int, int]], tokens: Tensor, inner: Tensor, entities: Sequence[int], before: int) -> None:
        """Keys of the rows' own tokens, after so many of a lead."""
        starts, lengths = inner.int().argmax(dim=1) + before, inner.sum(dim=1) - before
        room = inner.shape[1] - int(inner.int().argmax(dim=1).max()) - 1  # a text that fills it was perhaps cut
        hashes = list(_rolled(tokens, LONGEST))
        for row, entity in enumerate(entities):
            length = int(lengths[row])
            if 0 < length <= LONGEST and length + before < room:
                key = int(hashes[length - 1][row, starts[row]])
                keys[length - 1].setdefault(key, entity)

    def find(self, tokens: Tensor, inner: Tensor, most: int) -> Mentions:
        """The first mentions in captions.

        Args:
            tokens: (B, L).
            inner: (B, L) bool, which of them are of the text itself.
            most: K.
        """
        entity, length = torch.full_like(tokens, PADDING), torch.zeros_like(tokens)
        for number, hashes in enumerate(_rolled(tokens, self.longest), start=1):
            keys = getattr(self, f"keys_{number}")
            if not len(keys):
                continue
            places = hashes.shape[1]
            at = torch.searchsorted(keys, hashes.contiguous()).clamp(max=len(keys) - 1)
            there = (keys[at] == hashes) & inner[:, :places] & inner[:, number - 1 :]
            entity[:, :places] = torch.where(there, getattr(self, f"entities_{number}")[at], entity[:, :places])
            length[:, :places] = torch.where(there, number, length[:, :places])
        start = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        end = start + length
        reached = end.cummax(dim=1).values.roll(1, dims=1)  # by those that begin further left
        reached[:, 0] = 0
        there = (length > 0) & (end > reached)
        order = (~there).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        there = there.gather(1, order)
        ids = torch.where(there, entity.gather(1, order), PADDING)
        return Mentions(ids, *(torch.where(there, each.gather(1, order), 0) for each in (start, end)))


def _rolled(tokens: Tensor, longest: int) -> Iterator[Tensor]:
    """(B, L) -> (B, L), (B, L - 1), ...: a number for each run of 1, 2, ... tokens, by where it starts."""
    runs = torch.zeros_like(tokens)
    for length in range(1, min(longest, tokens.shape[1]) + 1):
        runs = Draws.mixed(runs[:, : tokens.shape[1] - length + 1] + tokens[:, length - 1 :])
        yield runs


def covered(mentions: Mentions, length: int) -> Tensor:
    """(B, L) which unit each token is of: the first token of the leftmost mention that covers it, or itself."""
    own = torch.arange(length, device=mentions.ids.device)
    starts = torch.where(mentions.covers(length), mentions.start[..., None], length)  # (B, K, L)
    return torch.minimum(starts.amin(dim=1), own)
