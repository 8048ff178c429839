"""Means over classes, of which some have no value since nothing tells it: of all, of base and of novel ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isnan, nan

import numpy as np


def mean_of_known(values: np.ndarray) -> float:
    """The mean of those that are not NaN; NaN where all are."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else nan


def base_and_novel(
    of_class: Mapping[str, np.ndarray], class_names: Sequence[str], novel: Collection[str]
) -> dict[str, float]:
    """Each metric's mean over base classes, over novel ones, and the harmonic mean of both; {} without novel classes.

    Args:
        of_class: metric -> (K,).
        novel: names of novel classes; the others are base classes.
    """
    if not novel:
        return {}
    is_novel = np.array([name in set(novel) for name in class_names])
    metrics: dict[str, float] = {}
    for name, values in of_class.items():
        base, new = mean_of_known(values[~is_novel]), mean_of_known(values[is_novel])
        metrics |= {f"base_{name}": base, f"novel_{name}": new, f"harmonic_{name}": _harmonic_mean(base, new)}
    return metrics


def _harmonic_mean(base: float, novel: float) -> float:
    """2ab / (a + b): low if either is; 0 where both are 0, NaN where one is not known."""
    if isnan(base) or isnan(novel):
        return nan
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def known(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those that have a value."""
    return {name: float(value) for name, value in metrics.items() if not isnan(value)}


def or_none(value: float) -> float | None:
    """The value, or None where it is not known."""
    return None if isnan(value) else float(value)
