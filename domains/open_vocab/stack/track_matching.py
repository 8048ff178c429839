"""Detections given to tracks, over scipy: for mmdet's trackers, which ask packages for it that are not installed.

ByteTrack and OC-SORT ask lap, SORT, DeepSORT and StrongSORT ask motmetrics. Where these are installed, they are asked.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
from scipy.optimize import linear_sum_assignment

from .import_hooks import after_import

BY_LAP = ("byte_tracker", "ocsort_tracker")
BY_MOTMETRICS = ("sort_tracker", "strongsort_tracker")


def mend_track_matching() -> None:
    """Mend these modules where they are imported."""
    for name in BY_LAP:
        after_import(f"mmdet.models.trackers.{name}", _offer_lap)
    for name in BY_MOTMETRICS:
        after_import(f"mmdet.models.trackers.{name}", _offer_motmetrics)


def limited_assignment(
    cost: np.ndarray, extend_cost: bool = False, cost_limit: float = np.inf
) -> tuple[float, np.ndarray, np.ndarray]:
    """The cheapest pairing where whatever stays alone costs half a limit, as `lap.lapjv` has it.

    Args:
        cost: (R, C).
        extend_cost: of lap, which asks whether R and C may differ; here they may.
        cost_limit: no pair costs more.

    Returns:
        (the cost of all pairs, (R,) the column of each row, (C,) the row of each column); -1 where there is none.
    """
    gains = np.minimum(cost - cost_limit, 0) if np.isfinite(cost_limit) else cost
    rows, columns = linear_sum_assignment(gains)
    within = cost[rows, columns] < cost_limit
    rows, columns = rows[within], columns[within]
    column_of, row_of = (np.full(size, -1, dtype=np.int32) for size in cost.shape)
    column_of[rows], row_of[columns] = columns, rows
    return float(cost[rows, columns].sum()), column_of, row_of


def finite_assignment(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of as many pairs as can be, the cheapest such; NaN is no pair, as motmetrics has it."""
    there = np.isfinite(costs)
    if not there.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    finite = costs[there].astype(np.float64)
    dear = 2 * min(costs.shape) * (np.abs(finite).max() + 1)
    rows, columns = linear_sum_assignment(np.where(there, costs, dear))
    paired = there[rows, columns]
    return rows[paired], columns[paired]


def _offer_lap(module: ModuleType) -> None:
    if module.lap is None:
        module.lap = SimpleNamespace(lapjv=limited_assignment)


def _offer_motmetrics(module: ModuleType) -> None:
    if module.motmetrics is None:
        module.motmetrics = SimpleNamespace()
        module.linear_sum_assignment = finite_assignment
