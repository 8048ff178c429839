"""BADGE: images whose gradients would be large and unlike one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....core.contracts import Pool, Selector


@dataclass(eq=False, kw_only=True)
class Badge(Selector):
    """Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds (Ash et al., 2020, arXiv 1906.03671).

    The gradient of a linear head, if the predicted class were the true one, is the outer product of (prediction as
    one-hot minus probabilities) and features. The first image has the longest gradient; each further one is drawn with
    a probability proportional to the squared distance of its gradient to the nearest one chosen, as k-means++ seeds its
    centres. Distances are computed from the two factors, so that no (M, C x D) matrix is made.

    Example:
        >>> build_selector("badge").select(pool, 3, seed=1)
        [9, 2, 7]
    """

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        residuals = gradient_factors(pool.probabilities[pool.candidates].double())
        rows = pool.features[pool.candidates].double()
        squares = residuals.square().sum(dim=1) * rows.square().sum(dim=1)  # (M,) squared lengths of gradients
        draws = np.random.RandomState(seed)
        chosen = [int(squares.argmax())]
        nearest = torch.full_like(squares, torch.inf)
        while len(chosen) < count:
            last = chosen[-1]
            products = (residuals @ residuals[last]) * (rows @ rows[last])
            nearest = torch.minimum(nearest, (squares + squares[last] - 2 * products).clamp(min=0))
            nearest[chosen] = 0.0
            chosen.append(_drawn(nearest.cpu().numpy(), chosen, draws))
        return pool.candidates[chosen].tolist()


def gradient_factors(probabilities: Tensor) -> Tensor:
    """(M, C) -> (M, C): what each class's block of the gradient has in front of the features."""
    predicted = torch.nn.functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
    return predicted - probabilities


def _drawn(weights: np.ndarray, chosen: list[int], draws: np.random.RandomState) -> int:
    """A position by weight; where all weights are 0, one of those not chosen."""
    total = weights.sum()
    if not total > 0:
        weights = np.ones_like(weights)
        weights[chosen] = 0.0
        total = weights.sum()
    place = int(np.searchsorted(np.cumsum(weights / total), draws.uniform(), side="left"))
    return min(place, int(np.flatnonzero(weights)[-1]))
