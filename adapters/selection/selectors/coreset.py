"""Core-set: each time the image farthest from all that are labelled."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from ....core.contracts import Pool, Selector
from ....core.data import farthest_first


@dataclass(eq=False, kw_only=True)
class Coreset(Selector):
    """The greedy k-centre algorithm of Active Learning for Convolutional Neural Networks: A Core-Set Approach (Sener
    and Savarese, 2018, arXiv 1708.00489), by Euclidean distances of features.

    Where nothing is labelled the first centre is drawn at random.

    Example:
        >>> build_selector("coreset").select(pool, 3)
        [8, 0, 6]
    """

    by_predictions: ClassVar[bool] = False

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        rows = pool.features[pool.candidates].float()  # (M, D)
        labelled = pool.features[pool.labelled].float()
        first = 0 if len(labelled) else random.Random(seed).randrange(len(rows))
        chosen, _ = farthest_first(rows.__getitem__, len(rows), count, labelled, first)
        return pool.candidates[chosen].tolist()
