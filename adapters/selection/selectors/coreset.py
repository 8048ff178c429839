"""Core-set: each time the image farthest from all that are labelled."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ....core.contracts import Pool, Selector

CENTRES_AT_ONCE = 256


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
        chosen: list[int] = []
        if len(pool.labelled):
            nearest = _nearest_centre(rows, pool.features[pool.labelled].float())
        else:
            chosen = [random.Random(seed).randrange(len(rows))]
            nearest = _squared_distances(rows, rows[chosen]).flatten()
        while len(chosen) < count:
            nearest[chosen] = -1.0  # copies of a centre may be all that is left
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, _squared_distances(rows, rows[chosen[-1:]]).flatten())
        return pool.candidates[chosen].tolist()


def _nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    """(M,) squared distance to the nearest of (L, D) centres."""
    parts = [_squared_distances(rows, some).amin(dim=1) for some in centres.split(CENTRES_AT_ONCE)]
    return torch.stack(parts).amin(dim=0)


def _squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """(M, L)."""
    squares = rows.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
    return (squares - 2 * rows @ centres.T).clamp(min=0)
