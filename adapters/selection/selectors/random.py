"""Random: every candidate alike, the selection that others are measured against."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from ....core.contracts import Pool, Selector


@dataclass(eq=False, kw_only=True)
class RandomSelector(Selector):
    """A draw without replacement, all candidates alike.

    Example:
        >>> build_selector("random").select(pool, 3, seed=1)
        [7, 1, 4]
    """

    by_predictions: ClassVar[bool] = False

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        return random.Random(seed).sample(pool.candidates.tolist(), count)
