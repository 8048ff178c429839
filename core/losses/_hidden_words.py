"""The hidden words of a batch, gathered for a head that is to say what they were, and its error over them.

How many there are is drawn on the device. A GPU that were asked would wait for all that is under way; so there as many
places are taken as there can be words, those that hide none at the end, and these have no part in the error.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.outputs import MASKED_SHARE

DEVIATIONS = 12
"""A batch in which more words are drawn by so many standard deviations does not occur: about one in 10^31."""


class HiddenWords:
    """The hidden words of a batch.

    Args:
        labels: (B, L) ids of the hidden words, below 0 elsewhere.
        share: with which each word was drawn; where none was drawn in a caption, one more may be hidden.

    Attributes:
        places: (K,) in the batch, flattened, of its hidden words, in their order, and of others after them. K is the
            number of hidden words on a CPU, and the most that there can be elsewhere.
        count: () of hidden words.
    """

    def __init__(self, labels: Tensor, share: float = MASKED_SHARE):
        hidden = (labels >= 0).flatten()
        self.places, self.count = places_of(hidden, most_hidden(*labels.shape, share)), hidden.sum()
        self._labels = labels

    @property
    def targets(self) -> Tensor:
        """(K,) ids of the words at the places."""
        return self._labels.flatten()[self.places]

    def among(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (K, D), at the places."""
        return tokens.flatten(0, 1)[self.places]

    def error(self, scores: Tensor) -> Tensor:
        """Cross-entropy summed over the hidden words; NaN if some of them are not among the places.

        Args:
            scores: (K, V).
        """
        total = F.cross_entropy(scores, self.targets, reduction="sum")
        return torch.where(self.count > len(self.places), torch.nan, total)


def places_of(hidden: Tensor, most: int) -> Tensor:
    """(N,) bool -> (K,) places of what is true, in their order; where counting would make a device wait, `most` of
    them, those of the rest at the end."""
    return hidden.nonzero()[:, 0] if hidden.device.type == "cpu" else first_places(hidden, most)


def most_hidden(rows: int, length: int, share: float) -> int:
    """How many words of a batch can be hidden, each drawn with a probability of `share`."""
    words = rows * length
    drawn = words * share + DEVIATIONS * math.sqrt(words * share * (1 - share))
    return min(words, rows + math.ceil(drawn))


def first_places(hidden: Tensor, count: int) -> Tensor:
    """(N,) bool -> (count,) places of what is true, in their order, then of the rest."""
    return (~hidden).to(torch.uint8).argsort(stable=True)[:count]
