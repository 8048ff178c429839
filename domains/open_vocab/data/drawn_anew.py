"""Training samples that their domain draws anew in each epoch, as windows of a large raster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....core.contracts import DomainData, Item
from ....core.registry import load_domain

HIGHEST = 2**31


@dataclass(frozen=True)
class DrawnAnew:
    """Row -> the sample that is seen in its place. It is drawn by numpy's generator, which `vladapt.SeededDataset`
    seeds from the seed, the epoch and the index before a sample is made.

    Args:
        draw: of `Domain.drawer`.
    """

    draw: Callable[[int, int], Item]

    @classmethod
    def of(cls, data: DomainData) -> DrawnAnew | None:
        """That of a training set; None where nothing is drawn."""
        by = next((item.draw[Item.READ_BY] for item in data.items if item.draw), None)
        return None if by is None else cls(load_domain(by).drawer(data.items, data.class_names))

    def __call__(self, row: int) -> Item:
        return self.draw(row, int(np.random.randint(HIGHEST)))
