"""Whether the best answer to a query stands out from the best answers to drawn queries, which ask for nothing.

A search always answers. Where a text tower does not know what is in the images, the best answer to a query scores like
that to any other words. Drawn queries have as many words as the query, each an article, a preposition, a pronoun or the
like: words that name nothing which can be seen. All queries are compared by how far the best answer rises: its cosine
minus its mean over the queries (some images are close to any words), minus the mean of that over the images (some words
are close to any image). Of words that mean nothing to a tower the rank among the drawn ones is uniform, so that one in
twenty is taken to stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.pairs.augment_text import FUNCTION_WORDS

DRAWN = 39
LEVEL = 0.05
LONGEST = 40
"""Words of a drawn query at most: a text tower reads no more of them."""


@dataclass(frozen=True)
class AmongDrawn:
    """A query among drawn ones.

    Args:
        rank: of how far its best answer rises; 1: above those of all drawn queries.
        drawn: how many queries were drawn.
    """

    rank: int
    drawn: int

    @property
    def stands_out(self) -> bool:
        return self.rank <= LEVEL * (self.drawn + 1)

    @property
    def warning(self) -> str:
        """What to say before the answers; "" where they stand out."""
        if self.stands_out:
            return ""
        return (
            f"The best answer does not stand out: {self.rank - 1} of {self.drawn} queries of as many random words that "
            "name nothing have one that stands out as far. This model may not know your words, or nothing of the kind "
            "is in the index."
        )


def among_drawn(query: Tensor, drawn: Tensor, best: Callable[[Tensor], Tensor], mean: Tensor) -> AmongDrawn:
    """The rank of a query among drawn ones.

    Args:
        query: (D,) unit feature of its words.
        drawn: (Q, D) unit features of `drawn_queries`.
        best: unit queries (1 + Q, D) -> (1 + Q,) the highest dot product that an image has with each.
        mean: (D,) of the images.
    """
    rows = torch.cat([query[None], drawn])
    rows = rows - rows.mean(dim=0)
    rises = best(F.normalize(rows, dim=-1)) * rows.norm(dim=-1) - rows @ mean
    return AmongDrawn(1 + int((rises[1:] >= rises[0]).sum()), len(drawn))


def drawn_queries(text: str, count: int = DRAWN, words: Sequence[str] = tuple(sorted(FUNCTION_WORDS))) -> list[str]:
    """Queries of as many words as a text has, drawn from those that name nothing; of one length always the same."""
    length = min(max(1, len(text.split())), LONGEST)
    drawn = np.random.default_rng(length).integers(len(words), size=(count, length))
    return [" ".join(words[place] for place in row) for row in drawn.tolist()]
