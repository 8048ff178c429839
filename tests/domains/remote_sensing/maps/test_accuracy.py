"""Accuracy and areas of a map from a sample: the worked example of the paper, and a sampling experiment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

from vladapt.domains.remote_sensing.maps.accuracy import map_accuracy

PAPER = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
"""Deforestation, forest gain, stable forest, stable non-forest (Olofsson et al. 2014, section 5)."""
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 30 * 30 / 10_000


def test_the_worked_example_of_the_paper():
    made = map_accuracy(("loss", "gain", "forest", "other"), PAPER, PIXELS * HECTARES)
    assert round(float(made.overall.value), 2) == 0.95 and round(float(made.overall.half_width), 2) == 0.02
    assert made.users.value.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert made.users.half_width.round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert made.producers.value.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    assert made.producers.half_width.round(2).tolist() == [0.21, 0.25, 0.03, 0.02]
    hectares = made.shares.value * made.area, made.shares.half_width * made.area
    assert hectares[0].round().tolist() == [21_158, 11_686, 285_770, 581_386]
    assert hectares[1].round().tolist() == [6_158, 3_756, 15_510, 16_282]


@settings(max_examples=40)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_shares_add_up_and_estimates_lie_in_range(classes, seed):
    rng = np.random.default_rng(seed)
    matrix, areas = rng.integers(0, 30, (classes, classes)) + np.eye(classes, dtype=int), rng.random(classes) + 0.1
    made = map_accuracy([str(i) for i in range(classes)], matrix, areas)
    assert made.shares.value.sum() == pytest.approx(1)
    assert made.overall.value == pytest.approx((made.weights * made.users.value).sum())
    assert made.overall.value == pytest.approx((made.shares.value * made.producers.value).sum())
    for estimate in (made.users, made.producers, made.shares):
        assert ((estimate.value >= 0) & (estimate.value <= 1 + 1e-12)).all()


def test_intervals_hold_the_truth_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    areas, rates = np.array([0.2, 0.5, 0.3]), np.array([[0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.2, 0.1, 0.7]])
    truth = areas @ rates
    overall, producers = areas @ np.diag(rates), areas * np.diag(rates) / truth
    held = []
    for _ in range(1000):
        matrix = np.stack([rng.multinomial(150, row) for row in rates])
        made = map_accuracy("abc", matrix, areas)
        wanted = ((made.overall, overall), (made.shares, truth), (made.producers, producers))
        held.append([np.mean(abs(e.value - true) <= e.half_width) for e, true in wanted])
    assert np.allclose(np.mean(held, axis=0), 0.95, atol=0.02)


def test_a_class_without_units_is_left_out_and_one_with_a_single_unit_has_no_interval():
    made = map_accuracy("abc", np.array([[8, 2, 0], [0, 0, 0], [0, 0, 1]]), np.array([50.0, 30.0, 20.0]))
    assert made.unsampled == ("b",) and made.area == 70
    assert made.shares.value.tolist() == pytest.approx([50 / 70 * 0.8, 50 / 70 * 0.2, 20 / 70])
    assert np.isnan(made.users.value[1]) and np.isnan(made.users.half_width[2]) and np.isnan(made.overall.half_width)


@pytest.mark.parametrize(
    ("matrix", "areas"),
    [(np.zeros((2, 2)), [1, 1]), (np.eye(3), [1, 1]), (-np.eye(2), [1, 1]), (np.eye(2), [0, 0]), (np.eye(2), [-1, 1])],
)
def test_numbers_that_are_no_sample_are_refused(matrix, areas):
    with pytest.raises(ValueError):
        map_accuracy("ab", matrix, np.array(areas))
