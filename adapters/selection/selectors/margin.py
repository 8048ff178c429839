"""Margin: the images whose two most likely classes are closest."""

from __future__ import annotations

from dataclasses import dataclass

from ....core.contracts import Pool, Selector


@dataclass(eq=False, kw_only=True)
class Margin(Selector):
    """Margin sampling (Active Hidden Markov Models for Information Extraction, Scheffer, Decomain and Wrobel, 2001, doi
    10.1007/3-540-44816-0_31), as best versus second best of several classes (Multi-class active learning for image
    classification, Joshi, Porikli and Papanikolopoulos, 2009, doi 10.1109/CVPR.2009.5206627).

    Example:
        >>> build_selector("margin").select(pool, 3)
        [2, 5, 9]
    """

    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        first, second = pool.probabilities[pool.candidates].topk(2, dim=1).values.unbind(dim=1)
        return pool.candidates[(first - second).argsort(stable=True)[:count]].tolist()
