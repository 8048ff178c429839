"""Composed queries that have several targets each: reference outputs, a literal count, and what chance gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.composed import composed_metrics

from vladapt.core.metrics.composed import (
    TargetRanks,
    average_precision_at,
    composed_average_precision,
    is_found,
    precision,
    random_average_precision,
    random_average_precision_at,
    random_is_found,
    random_precision,
    random_recall,
    recall,
    target_ranks,
)


def test_agrees_with_the_reference(agrees):
    agrees(composed_metrics)


@st.composite
def scored(draw):
    """Scores of few values, so that many are equal, and one to three targets per query."""
    queries, size = draw(st.integers(1, 4)), draw(st.integers(4, 12))
    scores = draw(
        st.lists(st.lists(st.integers(0, 4), min_size=size, max_size=size), min_size=queries, max_size=queries)
    )
    targets = [draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3, unique=True)) for _ in range(queries)]
    return torch.tensor(scores).float(), targets


def padded(targets):
    return torch.tensor([[*each, *[-1] * (3 - len(each))] for each in targets])


def literal(scores, targets, left_out=None):
    """Ranks of each query, one item after another, targets last among equals."""
    rows = []
    for row, own in zip(scores.tolist(), targets):
        items = sorted((-score, place in own) for place, score in enumerate(row) if place != left_out)
        ranks = [rank for rank, (_, is_target) in enumerate(items, start=1) if is_target]
        rows.append([*ranks, *[0] * (3 - len(ranks))])
    return rows


@settings(max_examples=40, deadline=None)
@given(scored())
def test_ranks_are_those_of_a_literal_count_whatever_the_blocks(case):
    scores, targets = case
    assert target_ranks(scores, padded(targets)).tolist() == literal(scores, targets)
    places = padded(targets)
    there = places >= 0
    counted = TargetRanks(scores.gather(1, places.clamp(min=0)).masked_fill(~there, -torch.inf))
    others = scores.clone()
    others[there.nonzero()[:, 0], places[there]] = -torch.inf
    for block in others.split(3, dim=1):
        counted.count(block)
    assert counted.ranks.tolist() == literal(scores, targets)


def test_the_reference_is_left_out_where_it_is_no_result():
    scores = torch.tensor([[0.9, 0.5, 0.7, 0.1]])
    assert target_ranks(scores, torch.tensor([[1]])).tolist() == [[3]]
    assert target_ranks(scores, torch.tensor([[1]]), torch.tensor([0])).tolist() == [[2]]


def test_each_share_by_hand():
    ranks = torch.tensor([[1, 3, 10], [2, 0, 0]])
    assert is_found(ranks, 1).tolist() == [True, False]
    assert average_precision_at(ranks, 5).tolist() == pytest.approx([(1 + 2 / 3) / 3, 1 / 2])
    assert average_precision_at(ranks, 2).tolist() == pytest.approx([1 / 2, 1 / 2])  # over min(targets, k)
    trapezoid = [(1 + 1 + 1 / 2 + 2 / 3 + 2 / 9 + 3 / 10) / 2 / 3, (0 + 1 / 2) / 2]
    assert composed_average_precision(ranks).tolist() == pytest.approx(trapezoid, abs=1e-5)
    assert recall(ranks, 3).tolist() == pytest.approx([2 / 3, 1], abs=1e-4)
    assert precision(ranks, 2).tolist() == pytest.approx([1 / 2, 1], abs=1e-4)


@pytest.mark.parametrize("targets", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_what_chance_gives_is_the_mean_over_random_orders(targets, k):
    size, orders = 20, 6000
    draws = torch.rand(orders, size, generator=torch.Generator().manual_seed(k))
    ranks = target_ranks(draws, torch.arange(targets).expand(orders, -1))
    count = torch.tensor([targets])
    for drawn, worked_out in (
        (is_found(ranks, k).double(), random_is_found(count, size, k)),
        (average_precision_at(ranks, k), random_average_precision_at(count, size, k)),
        (composed_average_precision(ranks), random_average_precision(count, size)),
        (recall(ranks, k), random_recall(count, size, k)),
        (precision(ranks, k), random_precision(count, size, k)),
    ):
        error = float(drawn.std()) / orders**0.5
        assert float(worked_out) == pytest.approx(float(drawn.mean()), abs=4 * error + 1e-4)
