"""A composition: how an image and words that are asked together become one query of an index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from .options import settle


@dataclass(frozen=True, eq=False)
class ImagesAndWords:
    """Q queries of an image and words each.

    Args:
        image: (Q, D) features, as the backbone gives them.
        text: (Q, D) features of the words.
        words: of each query; several where it says the same in several ways.
    """

    image: Tensor
    text: Tensor
    words: Sequence[tuple[str, ...]]

    @property
    def unit_image(self) -> Tensor:
        return F.normalize(self.image.float(), dim=-1)

    @property
    def unit_text(self) -> Tensor:
        return F.normalize(self.text.float(), dim=-1)


class Gallery(Protocol):
    """What a composition may ask for: the images that are searched, the text tower, and a vocabulary."""

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Cosines (Q, K) and unit features (Q, K, D) of the images nearest to unit queries (Q, D), the best first;
        minus infinity where there are fewer than `count`."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit features."""
        ...

    def vocabulary(self) -> tuple[Sequence[str], Tensor]:
        """W words, each once, and their unit features (W, D)."""
        ...


@dataclass(frozen=True, eq=False)
class Composed:
    """Args:
    factors: (Q, F, D): the score of an image is the product of its dot products with the F rows.
    words: of each query, (word, weight) of what the image was put into, where it was.
    """

    factors: Tensor
    words: Sequence[tuple[tuple[str, float], ...]] = ()


@dataclass(eq=False, kw_only=True)
class Composition(ABC):
    """Base of all compositions: one file in `core/retrieval/compositions/`, one subclass, its options as `option`
    fields, the paper in its docstring. An option `weight` is the share of the words, which `--weight` sets.

    Class attributes:
        name: set by the registry, from the file.
        by_vocabulary: whether it asks for words and for images like the query's.
    """

    name: ClassVar[str] = ""
    by_vocabulary: ClassVar[bool] = False

    def __post_init__(self):
        settle(self, f"--compose {self.name}")

    @abstractmethod
    def compose(self, queries: ImagesAndWords, gallery: Gallery) -> Composed:
        """The queries as rows that images are scored with."""
