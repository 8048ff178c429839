"""The corrected resampled t-test and Holm's adjustment, by their published formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp

from vladapt.core.metrics.significance import adjusted_level, corrected_interval, corrected_t_test, holm


def test_without_overlap_it_is_the_ordinary_t_test():
    differences = [0.02, 0.05, -0.01, 0.03, 0.04]
    assert corrected_t_test(differences, 0.0) == pytest.approx(ttest_1samp(differences, 0).pvalue)


def test_the_variance_grows_by_the_ratio_of_test_to_train():
    differences = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    statistic = differences.mean() / math.sqrt((1 / 5 + 3 / 7) * differences.var(ddof=1))
    assert corrected_t_test(differences.tolist(), 3 / 7) == pytest.approx(2 * t.sf(abs(statistic), 4))


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_fewer_than_five_splits_cannot_tell(splits):
    assert corrected_t_test([0.1, 0.2, 0.3, 0.4][:splits], 0.5) is None
    assert corrected_interval([0.1, 0.2, 0.3, 0.4][:splits], 0.5) is None


def test_equal_methods_do_not_differ():
    assert corrected_t_test([0.0] * 5, 0.5) == 1.0
    assert corrected_t_test([0.1] * 5, 0.5) == 0.0


def test_the_interval_is_that_of_the_test():
    """It ends at 0 where the p value is 0.05, and has the same centre."""
    differences, ratio = np.array([0.02, 0.05, -0.01, 0.03, 0.04]), 3 / 7
    low, high = corrected_interval(differences.tolist(), ratio)
    assert (low + high) / 2 == pytest.approx(differences.mean())
    assert corrected_t_test((differences - low).tolist(), ratio) == pytest.approx(0.05)


def test_two_guessers_are_seldom_told_apart():
    rng, called = np.random.default_rng(0), {"corrected": 0, "ordinary": 0}
    for _ in range(100):
        first, second = rng.random(100) < 0.6, rng.random(100) < 0.6  # right on each of 100 images
        tests = [rng.permutation(100)[:30] for _ in range(10)]
        differences = [float(first[rows].mean() - second[rows].mean()) for rows in tests]
        called["corrected"] += corrected_t_test(differences, 30 / 70) < 0.05
        called["ordinary"] += corrected_t_test(differences, 0.0) < 0.05
    assert called["corrected"] < called["ordinary"] / 2


def test_holm_steps_down_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=6))
def test_an_interval_of_the_adjusted_level_agrees_with_the_adjusted_p_value(p_values):
    for p_value, adjusted in zip(p_values, holm(p_values)):
        level = adjusted_level(p_value, adjusted)
        leaves_out_0 = p_value < 1 - level
        assert leaves_out_0 == (adjusted < 0.05) or adjusted == pytest.approx(0.05)
        assert level + 1e-12 >= 0.95 and level <= 1 - 0.05 / len(p_values) + 1e-12
    assert adjusted_level(0.0, 0.0) == 0.95
