"""What trackers of mmdet get where lap and motmetrics are not installed."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.models.trackers import byte_tracker, ocsort_tracker, sort_tracker, strongsort_tracker

from vladapt.domains.open_vocab.stack.track_matching import finite_assignment, limited_assignment

sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))
costs = sizes.flatmap(lambda size: arrays(np.float64, size, elements=st.floats(0, 1)))


def pairings(rows, columns):
    """Every set of pairs that names no row and no column twice."""
    for chosen in permutations([*range(columns), *[None] * rows], rows):
        yield [(row, column) for row, column in enumerate(chosen) if column is not None]


@settings(max_examples=40, deadline=None)
@given(costs, st.floats(0.1, 1.2))
def test_pairs_are_the_cheapest_where_to_stay_alone_costs_half_the_limit(cost, limit):
    total, columns, rows = limited_assignment(cost, extend_cost=True, cost_limit=limit)
    pairs = [(row, column) for row, column in enumerate(columns) if column >= 0]
    assert all(rows[column] == row for row, column in pairs) and (rows >= 0).sum() == len(pairs)
    assert total == pytest.approx(sum(cost[pair] for pair in pairs))
    best = min(sum(cost[pair] - limit for pair in every) for every in pairings(*cost.shape))
    assert total - limit * len(pairs) == pytest.approx(best, abs=1e-9)


def test_without_a_limit_all_that_can_are_paired():
    total, columns, rows = limited_assignment(np.array([[5.0, 9, 7], [1, 8, 9]]))
    assert (total, columns.tolist(), rows.tolist()) == (8, [2, 0], [1, -1, 0])


@settings(max_examples=40, deadline=None)
@given(costs, st.data())
def test_what_is_no_number_is_no_pair(cost, data):
    cost[data.draw(arrays(bool, cost.shape))] = np.nan
    rows, columns = finite_assignment(cost)
    pairs = list(zip(rows, columns, strict=True))
    valid = [every for every in pairings(*cost.shape) if all(np.isfinite(cost[pair]) for pair in every)]
    most = max(map(len, valid))
    cheapest = min(sum(cost[pair] for pair in every) for every in valid if len(every) == most)
    assert len(pairs) == most and sum(cost[pair] for pair in pairs) == pytest.approx(cheapest, abs=1e-9)


def test_the_trackers_are_built():
    assert byte_tracker.ByteTracker() is not None and byte_tracker.lap.lapjv and ocsort_tracker.lap.lapjv
    assert sort_tracker.SORTTracker() is not None and strongsort_tracker.linear_sum_assignment
