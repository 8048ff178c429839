"""The best of many pairs by a score; of equal scores the smaller id is better."""

from __future__ import annotations

import math

import numpy as np

PAIRS_AT_ONCE = 16_384
"""Whose features are read together."""
DECIMALS = 6
"""To which scores are rounded: beyond them, equal rows of float32 differ by their places in a matrix product."""


def count_of(total: int, share: float) -> int:
    """How many pairs a share of them is: the whole part, at least one."""
    return max(1, int(total * share))


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """(N,) scores -> (N,) flags of the `count` highest."""
    flags = np.zeros(len(scores), bool)
    flags[np.argsort(-scores, kind="stable")[:count]] = True
    return flags


def rounded(scores: np.ndarray) -> np.ndarray:
    """(N,) scores to six significant digits of the largest, so that equal rows have equal ones."""
    largest = float(np.abs(scores).max(initial=0.0))
    return np.round(scores, DECIMALS - 1 - math.floor(math.log10(largest))) if largest else scores
