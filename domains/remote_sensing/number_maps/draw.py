"""Few training windows, as many low as high ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....core.contracts import Item

BINS = 5


def drawn_windows(items: Sequence[Item], shots: int, seed: int) -> list[Item]:
    """So many windows of each of five bins of equal size, from the lowest mean to the highest, in the order of the
    seed; of a bin with fewer, all."""
    ordered = sorted(items, key=lambda item: (item.target.mean, item.id))
    drawn: list[Item] = []
    for part in np.array_split(np.arange(len(ordered)), BINS):
        drawn += sorted((ordered[place] for place in part), key=lambda item: item.rank(seed))[:shots]
    return drawn
