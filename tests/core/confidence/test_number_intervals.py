"""Conformal intervals of numbers: by hand, on exchangeable rows, on other places."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.confidence import NumberIntervals
from vladapt.core.errors import ConfigError, DataError


def test_the_reach_is_the_quantile_of_the_finite_sample_rule():
    true = torch.zeros(19)
    predicted = torch.arange(1.0, 20.0) * torch.tensor([1.0, -1.0]).repeat(10)[:19]
    assert NumberIntervals.of_rows(predicted, true, 0.9).reach == 18  # ceil(20 * 0.9)
    assert NumberIntervals.of_rows(predicted, true, 0.95).reach == 19
    assert NumberIntervals.of_rows(predicted, true, 0.5).reach == 10
    assert math.isinf(NumberIntervals.of_rows(predicted[:8], true[:8], 0.9).reach)  # ceil(8.1) of 8
    assert NumberIntervals.of_rows(predicted[:9], true[:9], 0.9).reach == 9


def test_a_scale_makes_an_interval_wider_where_errors_are():
    predicted, scale = torch.tensor([1.0, 4.0] * 10), torch.tensor([0.5, 2.0] * 10)
    intervals = NumberIntervals.of_rows(predicted, torch.zeros(20), 0.9, scale=scale)
    assert intervals.reach == 2
    assert intervals.half_widths(2, torch.tensor([0.5, 2.0])).tolist() == [1, 4]
    with pytest.raises(DataError, match="scale"):
        intervals.half_widths(2)


def test_a_place_counts_once_whatever_its_number_of_images():
    """One place of a thousand images with small errors does not make the intervals of other places narrow."""
    true, groups = torch.zeros(1019), ["large"] * 1000 + [f"p{n}" for n in range(19)]
    predicted = torch.cat([torch.full((1000,), 0.1), torch.arange(1.0, 20.0)])
    grouped = NumberIntervals.of_rows(predicted, true, 0.9, groups)
    assert grouped.reach == 18 and grouped.groups == 20  # 21 places * 0.9 = 18.9: the large one and 18 others
    assert NumberIntervals.of_rows(predicted, true, 0.9).reach < 1
    assert NumberIntervals.of_rows(predicted, true, 0.9, [None] * 1019).groups is None


def test_too_few_places_give_no_interval_and_a_note_says_how_many_are_needed():
    intervals = NumberIntervals.of_rows(torch.rand(80), torch.zeros(80), 0.9, [f"p{n % 8}" for n in range(80)])
    assert intervals.unbounded and "at least 9" in intervals.note and "8 groups" in intervals.note
    scores = intervals.scores(torch.rand(20), torch.zeros(20))
    assert scores["coverage"] == 1 and scores["mean_width"] is None


@settings(max_examples=15, deadline=None)
@given(st.integers(9, 60), st.sampled_from([0.5, 0.8, 0.9]), st.integers(0, 1000))
def test_coverage_on_exchangeable_rows_is_at_least_what_was_asked(count, coverage, seed):
    """Exactly: each of n + 1 rows in turn is the new one; it is held by the others at least as often as asked."""
    rng = np.random.default_rng(seed)
    residuals = torch.tensor(rng.exponential(size=count + 1) * rng.choice([-1, 1], count + 1))
    held = 0
    for row in range(count + 1):
        others = torch.cat([residuals[:row], residuals[row + 1 :]])
        intervals = NumberIntervals.of_rows(others, torch.zeros(count), coverage)
        held += bool(residuals[row].abs() <= intervals.reach)
    assert coverage <= held / (count + 1) <= coverage + 1 / (count + 1) + 1e-9


def test_coverage_over_places_is_measured_with_its_interval():
    intervals = NumberIntervals.of_rows(torch.arange(1.0, 31.0), torch.zeros(30), 0.9)
    scores = intervals.scores(torch.tensor([1.0, 1.0, 1.0, 99.0]), torch.zeros(4), ["a", "a", "a", "b"])
    assert scores["coverage"] == 0.5 and scores["groups"] == 2 and scores["mean_width"] == 2 * intervals.reach
    assert intervals.scores(torch.tensor([1.0, 99.0]), torch.zeros(2))["coverage"] == 0.5


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ConfigError, match="coverage"):
        NumberIntervals.of_rows(torch.zeros(3), torch.zeros(3), 1.5)
    with pytest.raises(DataError, match="as many"):
        NumberIntervals.of_rows(torch.zeros(3), torch.zeros(2))
    with pytest.raises(DataError, match="above 0"):
        NumberIntervals.of_rows(torch.zeros(2), torch.zeros(2), 0.9, scale=torch.tensor([1.0, 0.0]))
