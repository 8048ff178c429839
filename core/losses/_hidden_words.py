"""The hidden words of a batch, gathered for a head that is to say what they were, and its error over them.

How many there are is drawn on the device. A GPU that were asked would wait for all that is under way; so there as many
places are taken as there can be words, those that hide none at the end, and these have no part in the error.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DEVIATIONS = 12
"""A batch in which more words are drawn by so many standard deviations does not occur: about one in 10^31."""


def places_of_hidden(labels: Tensor, share: float) -> Tensor:
    """(K,) places in the batch, flattened, of its hidden words, in their order, and of others after them.

    Args:
        labels: (B, L) ids of the hidden words, below 0 elsewhere.
        share: with which each word was drawn; where none was drawn in a caption, one more may be hidden.

    Returns:
        K is the number of hidden words on a CPU, and the most that there can be elsewhere.
    """
    hidden = (labels >= 0).flatten()
    if hidden.device.type == "cpu":
        return hidden.nonzero()[:, 0]
    return first_places(hidden, most_hidden(*labels.shape, share))


def most_hidden(rows: int, length: int, share: float) -> int:
    """How many words of a batch can be hidden, each drawn with a probability of `share`."""
    words = rows * length
    drawn = words * share + DEVIATIONS * math.sqrt(words * share * (1 - share))
    return min(words, rows + math.ceil(drawn))


def first_places(hidden: Tensor, count: int) -> Tensor:
    """(N,) bool -> (count,) places of what is true, in their order, then of the rest."""
    return (~hidden).to(torch.uint8).argsort(stable=True)[:count]


def error_of_words(scores: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy summed over the hidden words; NaN if some of them are not among the places.

    Args:
        scores: (K, V).
        labels: (B, L).
        places: (K,).
    """
    total = F.cross_entropy(scores, labels.flatten()[places], reduction="sum")
    return torch.where((labels >= 0).sum() > len(places), torch.nan, total)
