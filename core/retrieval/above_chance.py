"""Whether the best answer to a query stands out from the best answers to drawn queries, which ask for nothing.

A search always answers. Where a text tower does not know what is in the images, its best answers have scores like those
of words that were drawn at random: the query's own best score is then any one of theirs, and its rank among them
uniform, so that a query is told to stand out at most once in twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.pairs.augment_text import KINDS
from .index import Hit

DRAWN = 39
LEVEL = 0.05
LONGEST = 40
"""Words of a drawn query at most: a text tower reads no more of them."""


@dataclass(frozen=True)
class AmongDrawn:
    """A query among drawn ones.

    Args:
        rank: of the score of its best answer; 1: above those of all drawn queries.
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
        beaten = self.rank - 1
        return (
            f"The best answer does not stand out: {beaten} of {self.drawn} random queries of the same length have one "
            "that scores as high. This model may not know these words, or nothing of the kind is in the index."
        )


def among_drawn(text: str, best: float, search: Callable[[Sequence[str]], Sequence[Sequence[Hit]]]) -> AmongDrawn:
    """The rank of a query among drawn ones.

    Args:
        text: of the query.
        best: the score of its best answer.
        search: texts -> the answers to each, the best first.
    """
    scores = [hits[0].score for hits in search(drawn_queries(text)) if hits]
    return AmongDrawn(1 + sum(score >= best for score in scores), len(scores))


def drawn_queries(text: str, count: int = DRAWN, words: Sequence[str] = tuple(KINDS)) -> list[str]:
    """Queries of as many words as a text has, drawn from nouns, adjectives, verbs and numbers; of one length always the
    same."""
    length = min(max(1, len(text.split())), LONGEST)
    drawn = np.random.default_rng(length).integers(len(words), size=(count, length))
    return [" ".join(words[place] for place in row) for row in drawn.tolist()]
