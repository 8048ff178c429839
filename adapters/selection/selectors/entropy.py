"""Entropy: the images whose predicted distribution over classes is flattest."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....core.contracts import Pool, Selector, option


@dataclass(eq=False, kw_only=True)
class Entropy(Selector):
    """Uncertainty sampling by entropy (Active Learning Literature Survey, Settles, 2009, Computer Sciences Technical
    Report 1648 of the University of Wisconsin-Madison).

    The `epsilon` inside the logarithm is that of PCB's released code.

    Example:
        >>> build_selector("entropy").select(pool, 3)
        [2, 9, 5]
    """

    epsilon: float = option(1e-6, "added to a probability before its logarithm", above=0, high=0.1)

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        certainty = self.certainty(pool.probabilities[pool.candidates])
        return pool.candidates[certainty.argsort(stable=True)[:count]].tolist()

    def certainty(self, probabilities: Tensor) -> Tensor:
        """(M,) sum of p log p of rows (M, C): the negative entropy."""
        return (probabilities * (probabilities + self.epsilon).log()).sum(dim=1)
