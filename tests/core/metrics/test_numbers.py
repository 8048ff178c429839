"""Metrics of numbers: against scikit-learn, intervals over places, paired differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import DataError
from vladapt.core.metrics import NumberSums

sk = pytest.importorskip("sklearn.metrics")


def drawn(count, places, seed=0, place_spread=1.0):
    rng = np.random.default_rng(seed)
    place = rng.integers(places, size=count)
    true = rng.normal(5, 3, count)
    predicted = true + rng.normal(0, 1, count) + place_spread * rng.normal(size=places)[place]
    return torch.tensor(predicted), torch.tensor(true), [f"p{each}" for each in place]


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 60), st.integers(0, 10_000), st.floats(-1e6, 1e6))
def test_metrics_are_scikit_learns_and_do_not_depend_on_how_images_are_grouped(count, seed, offset):
    predicted, true, groups = drawn(count, 4, seed)
    predicted, true = predicted + offset, true + offset
    sums = NumberSums.of(predicted, true, offset + 2.0, groups)
    metrics = sums.metrics()
    assert metrics["mae"] == pytest.approx(sk.mean_absolute_error(true, predicted))
    assert metrics["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(true, predicted)))
    assert metrics["r2"] == pytest.approx(sk.r2_score(true, predicted), abs=1e-6)
    assert metrics["bias"] == pytest.approx(float((predicted - true).mean()), abs=1e-6)
    assert metrics == pytest.approx(NumberSums.of(predicted, true, offset + 2.0).metrics())


def test_there_is_no_interval_of_r2_where_many_draws_have_none():
    """Of two or three images a draw often has one image only."""
    true = torch.tensor([1.0, 2.0, 6.0, 7.0, 3.0])
    for count, has_one in ((2, False), (3, False), (5, True)):
        sums = NumberSums.of(true[:count] + torch.arange(count) / 3, true[:count], 0.0)
        assert ("r2" in sums.intervals()) == has_one and "rmse" in sums.intervals()
        assert (sums.gain(sums, "r2").interval is not None) == has_one


def test_r2_against_the_training_mean_is_zero_for_that_mean():
    true = torch.tensor([1.0, 2.0, 6.0])
    metrics = NumberSums.of(torch.full((3,), 2.0), true, 2.0).metrics()
    assert metrics["r2_of_train_mean"] == 0
    assert metrics["r2"] == pytest.approx(1 - 17 / 14)  # about the mean of these numbers, 3


def test_numbers_that_do_not_differ_have_no_r2():
    metrics = NumberSums.of(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]), 3.0).metrics()
    assert metrics["r2"] is None and metrics["r2_of_train_mean"] is None and metrics["mae"] == 1.5


def test_an_interval_over_places_is_wider_than_one_over_images():
    predicted, true, groups = drawn(300, 12, place_spread=2.0)
    of_places = NumberSums.of(predicted, true, 5.0, groups).intervals()["rmse"]
    of_images = NumberSums.of(predicted, true, 5.0).intervals()["rmse"]
    assert of_places[1] - of_places[0] > 1.3 * (of_images[1] - of_images[0])
    value = NumberSums.of(predicted, true, 5.0).metrics()["rmse"]
    assert of_places[0] < value < of_places[1]


def test_an_interval_of_the_mean_error_is_students():
    """Of the bias, which is a mean, Student's interval is exact; the plain percentiles would be a fifth narrower."""
    rng = np.random.default_rng(1)
    error = rng.normal(size=7)
    low, high = NumberSums.of(torch.tensor(error), torch.zeros(7), 0.0).intervals()["bias"]
    reach = 2.4469 * error.std(ddof=1) / math.sqrt(7)
    assert (high - low) / (2 * reach) == pytest.approx(1, abs=0.12)


def test_intervals_over_ten_places_hold_the_true_error():
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        errors = rng.normal(size=(10, 6)) + rng.normal(size=(10, 1))
        groups = np.repeat([f"p{n}" for n in range(10)], 6)
        low, high = NumberSums.of(torch.tensor(errors.ravel()), torch.zeros(60), 0.0, groups).intervals()["rmse"]
        held += low <= math.sqrt(2) <= high
    assert held >= 0.85 * 60


def test_a_paired_gain_is_seen_where_single_intervals_overlap():
    predicted, true, groups = drawn(200, 20, place_spread=3.0)
    worse = true + 1.05 * (predicted - true)
    first, second = NumberSums.of(predicted, true, 5.0, groups), NumberSums.of(worse, true, 5.0, groups)
    gain = first.gain(second)
    assert gain.better and not gain.worse and gain.units == 20
    assert gain.value == pytest.approx(second.metrics()["rmse"] - first.metrics()["rmse"])
    assert first.intervals()["rmse"][1] > second.intervals()["rmse"][0]
    assert second.gain(first).worse and not first.gain(first).better
    assert first.gain(second, "mae").value == pytest.approx(second.metrics()["mae"] - first.metrics()["mae"])


def test_one_place_tells_no_interval():
    sums = NumberSums.of(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]), 1.0, ["a", "a"])
    assert sums.intervals() == {} and sums.gain(sums).interval is None and not sums.gain(sums).better


def test_sums_of_windows_add_up():
    predicted, true, groups = drawn(90, 3)
    order = sorted(range(90), key=lambda row: groups[row])
    predicted, true, groups = predicted[order], true[order], [groups[row] for row in order]
    whole = NumberSums.of(predicted, true, 5.0, groups)
    parts = [[n for n in range(90) if groups[n] == place] for place in ("p0", "p1", "p2")]
    rows = [NumberSums.of(predicted[part], true[part], 5.0, ["x"] * len(part)).sums for part in parts]
    assert torch.allclose(whole.sums, torch.cat(rows))


@pytest.mark.parametrize(
    ("predicted", "true", "words"),
    [([1.0], [1.0, 2.0], "1 predicted"), ([], [], "no numbers"), ([float("nan")], [1.0], "not finite")],
)
def test_what_cannot_be_compared_is_refused(predicted, true, words):
    with pytest.raises(DataError, match=words):
        NumberSums.of(torch.tensor(predicted), torch.tensor(true), 0.0)


def test_a_gain_over_other_numbers_is_refused():
    first, second = (NumberSums.of(torch.zeros(2), torch.tensor(true), 0.0) for true in ([1.0, 2.0], [1.0, 3.0]))
    with pytest.raises(DataError, match="the same numbers"):
        first.gain(second)
