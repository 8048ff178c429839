"""One number for base and novel classes together."""

from __future__ import annotations

from math import isnan


def harmonic_mean(base: float, novel: float) -> float:
    """2ab / (a + b): low if either is; 0 where both are 0, NaN where one is not known."""
    if isnan(base) or isnan(novel):
        return float("nan")
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def known(metrics: dict[str, float]) -> dict[str, float]:
    """Those that have a value."""
    return {name: float(value) for name, value in metrics.items() if not isnan(value)}
