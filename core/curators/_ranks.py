"""The best of many pairs by a score; of equal scores the smaller id is better."""

from __future__ import annotations

import numpy as np

PAIRS_AT_ONCE = 16_384
"""Whose features are read together."""


def count_of(total: int, share: float) -> int:
    """How many pairs a share of them is: the whole part, at least one."""
    return max(1, int(total * share))


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """(N,) scores -> (N,) flags of the `count` highest."""
    flags = np.zeros(len(scores), bool)
    flags[np.argsort(-scores, kind="stable")[:count]] = True
    return flags
