"""Layers in which a text and an image look at each other, and the entities that the text mentions at the image: what
`arl` calls to reason. Layers are post-norm, as in BERT (2018, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

PADDING = -100
"""Of entity ids: there is none."""
NOT_SEEN = -10_000.0
EPS = 1e-12


@dataclass(frozen=True)
class TextImagePair:
    """A text, its entities and an image, between layers.

    Attributes:
        text: (B, L, W).
        image: (B, P, W).
        entities: (B, K, C).
        text_mask: (B, L) float, 0 where a token is there, else `NOT_SEEN`.
        entity_mask: (B, K) likewise.
        covers: (B, K, L) float, 1 where a token is of the words that mention the entity.
    """

    text: Tensor
    image: Tensor
    entities: Tensor
    text_mask: Tensor
    entity_mask: Tensor
    covers: Tensor


def as_mask(there: Tensor) -> Tensor:
    """Bool -> what is added to scores. Where nothing is there all of it is seen alike."""
    return torch.where(there, 0.0, NOT_SEEN)


class Attended(nn.Module):
    """x with what it sees, normalised."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, W), (B, S, W) and (B, S) as of `as_mask` -> (B, L, W)."""
        mixed, _ = self.attention(x, seen, seen, key_padding_mask=mask, need_weights=False)
        return self.norm(x + self.dropout(mixed))


class FeedForward(nn.Module):
    """Two layers with GELU between them, added to x and normalised."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.layers(x))


class ImageLayer(nn.Module):
    """Patches look at each other, then at the text."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.each_other, self.at_text = (Attended(width, heads, dropout) for _ in range(2))
        self.feed_forward = FeedForward(width, hidden, dropout)

    def forward(self, pair: TextImagePair) -> Tensor:
        """(B, P, W)."""
        return self.feed_forward(self.at_text(self.each_other(pair.image, pair.image), pair.text, pair.text_mask))


class TextLayer(nn.Module):
    """Words look at each other and at the image, and so do the entities that they mention; then each word takes from
    the entities that it is part of.

    Args:
        width, heads, hidden: of words and patches.
        entity_width, entity_heads, entity_hidden: of entities.
        dropout: everywhere.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        entity_width: int,
        entity_heads: int,
        entity_hidden: int,
        dropout: float,
    ):
        super().__init__()
        self.each_other, self.at_image = (Attended(width, heads, dropout) for _ in range(2))
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.entity_each_other, self.entity_at_image = (Attended(entity_width, entity_heads, dropout) for _ in range(2))
        self.entity_feed_forward = FeedForward(entity_width, entity_hidden, dropout)
        self.image_map, self.entity_map = nn.Linear(width, entity_width), nn.Linear(entity_width, width)
        self.fused, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, pair: TextImagePair) -> tuple[Tensor, Tensor]:
        """(B, L, W) and (B, K, C)."""
        entities = self.entity_each_other(pair.entities, pair.entities, pair.entity_mask)
        entities = self.entity_at_image(entities, self.image_map(pair.image))
        text = self.at_image(self.each_other(pair.text, pair.text, pair.text_mask), pair.image)
        mentioned = text + pair.covers.mT @ self.entity_map(entities)  # (B, L, W)
        text = self.norm(text + self.dropout(self.fused(mentioned)))
        return self.feed_forward(text), self.entity_feed_forward(entities)


class CoAttention(nn.Module):
    """Layers of both, one beside the other.

    Args:
        count: of layers.
        of_text: arguments of each `TextLayer`; those of an `ImageLayer` are among them.
    """

    def __init__(self, count: int, **of_text):
        super().__init__()
        of_image = {name: of_text[name] for name in ("width", "heads", "hidden", "dropout")}
        self.of_text = nn.ModuleList(TextLayer(**of_text) for _ in range(count))
        self.of_image = nn.ModuleList(ImageLayer(**of_image) for _ in range(count))

    def forward(self, pair: TextImagePair, stop: int | None = None) -> TextImagePair:
        """The pair after the layers before `stop`; by default after all."""
        for of_text, of_image in list(zip(self.of_text, self.of_image))[:stop]:
            text, entities = of_text(pair)
            pair = TextImagePair(text, of_image(pair), entities, pair.text_mask, pair.entity_mask, pair.covers)
        return pair
