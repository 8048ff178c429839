"""The grid search of a cache model with two added matrices: alpha times the cache of beta, gamma times a fixed one.

For one image, beta and alpha, the gammas that classify it right form an interval: each rival class asks for a gamma
above or below the point where its logit meets the true one. The interval's ends are a maximum and a minimum over
classes, so a point of the grid costs no pass over classes: 200 betas, 20 alphas and 50 gammas cost 4,000 passes, not
200,000. Rows of val are taken in blocks, so memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.metrics import best_setting, row_weights
from ._cache_model import ClassSums

TINY = 1e-20  # a smaller slope counts as none, so that no reciprocal overflows


def search_two_terms(
    queries: Tensor,
    labels: Tensor,
    zero_shot: Tensor,
    keys: Tensor,
    values: Tensor,
    second: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
    gammas: Sequence[float],
    *,
    factor: float = 1.0,
    balanced: bool = False,
    ties: str = "published",
) -> tuple[tuple[float, float, float], float]:
    """The most accurate point of zero_shot + factor (gamma second + alpha exp(-beta (1 - q keys^T)) values).

    Args:
        queries: (V, D) unit val features q.
        labels: (V,) class indices.
        zero_shot: (V, C) logits that the rest is added to.
        keys: (N, D).
        values: (N, C).
        second: (V, C), what gamma multiplies.
        alphas, betas, gammas: the grid; the first point is the first in loop order (alpha outside, gamma inside).
        factor: logit_scale / 100.
        balanced: score by balanced accuracy.
        ties: as for `best_setting`.

    Returns:
        (alpha, beta, gamma), and their accuracy.
    """
    sums = ClassSums(keys, values, (0.0,), None)
    weights = row_weights(labels) if balanced else None
    counted = torch.long if weights is None else torch.double
    right = torch.zeros(len(alphas), len(betas), len(gammas), dtype=counted, device=queries.device)
    grid = torch.tensor(gammas, device=queries.device)[:, None]  # (G, 1)
    rows_at_once = max(1, min(sums.BLOCK // values.shape[1], sums.rows_at_once()))
    with torch.no_grad():
        for rows in torch.arange(len(queries), device=queries.device).split(rows_at_once):
            block = _Block(zero_shot[rows].T, factor * second[rows].T, labels[rows])
            affinity = sums.affinity(queries[rows])
            buffer = torch.empty_like(affinity)
            for b, beta in enumerate(betas):
                block.turn_to(sums.at(affinity, beta, buffer)[:, 0])
                for a, alpha in enumerate(alphas):
                    each = block.right(alpha * factor, grid)  # (G, R)
                    right[a, b] += each.sum(dim=1) if weights is None else each.double() @ weights[rows]
    counts = right.cpu().numpy()
    a, b, g = best_setting(counts / len(queries), ties)
    return (float(alphas[a]), float(betas[b]), float(gammas[g])), float(counts[a, b, g]) / len(queries)


class _Block:
    """Some rows of val, and of each class the lead of the true class over it: fixed + alpha cached + gamma slope.

    A lead that grows with gamma asks for a gamma above -(fixed + alpha cached) / slope, one that falls for a gamma
    below it. A lead without slope must be positive, or zero where the rival comes later, as argmax has it.
    """

    def __init__(self, fixed: Tensor, second: Tensor, truth: Tensor):
        """fixed and second (C, R), truth (R,)."""
        self.truth = truth[None]  # (1, R)
        slope = self._lead(second)
        self.rising, self.falling = slope > TINY, slope < -TINY
        self.level = ~(self.rising | self.falling)
        self.later = torch.arange(len(fixed), device=fixed.device)[:, None] >= self.truth  # itself among them
        self.any_level = bool(self.level.sum() > self.truth.numel())  # more than each row's true class
        self.inverse = torch.where(self.level, 0.0, -1 / slope)
        self.lead = self._lead(fixed)
        meets = self.lead * self.inverse
        self.above = meets.masked_fill(~self.rising, -torch.inf), torch.empty_like(meets)
        self.below = meets.masked_fill(~self.falling, torch.inf), torch.empty_like(meets)
        self.buffer = torch.empty_like(meets)

    def turn_to(self, cache: Tensor) -> None:
        """Take the (C, R) cache logits of another beta."""
        self.cached = self._lead(cache)
        shift = self.cached * self.inverse
        torch.mul(shift, self.rising, out=self.above[1])
        torch.mul(shift, self.falling, out=self.below[1])

    def right(self, alpha: float, gammas: Tensor) -> Tensor:
        """(G, R) whether rows are right at each of the (G, 1) gammas."""
        least = torch.add(*self.above, alpha=alpha, out=self.buffer).amax(dim=0)  # (R,)
        most = torch.add(*self.below, alpha=alpha, out=self.buffer).amin(dim=0)
        right = (gammas > least) & (gammas < most)  # (G, R)
        if self.any_level:
            lead = torch.add(self.lead, self.cached, alpha=alpha, out=self.buffer)
            right &= ((lead > 0) | ((lead == 0) & self.later) | ~self.level).all(dim=0)
        return right

    def _lead(self, values: Tensor) -> Tensor:
        return values.gather(0, self.truth) - values
