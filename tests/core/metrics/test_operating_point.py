"""Thresholds chosen by rank, and what follows from them, against closed forms, draws and reference numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.metrics import operating_point_as_released

from vladapt.core.errors import DataError
from vladapt.core.metrics.intervals import clopper_pearson, exact_interval
from vladapt.core.metrics.operating_point import (
    decision_curve,
    least_units,
    predictive_values,
    predictive_values_at,
    rates_at,
    recalibration,
    threshold_for,
    units_needed,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_numbers_are_those_of_the_reference(agrees):
    agrees(operating_point_as_released)


def test_so_many_patients_a_sensitivity_needs():
    assert (least_units(0.95), least_units(0.95, True)) == (19, 59)
    assert (least_units(0.9), least_units(0.9, True)) == (9, 29)
    assert (least_units(0.8), least_units(0.8, True)) == (4, 14)
    assert (least_units(0.99), least_units(0.99, True)) == (99, 299)


@pytest.mark.parametrize("assured", [False, True])
@pytest.mark.parametrize("side", ["sensitivity", "specificity"])
def test_one_patient_fewer_is_refused(side, assured):
    least = least_units(0.9, assured)
    probs, present = torch.rand(least, generator=seeded(0)), torch.full((least,), side == "sensitivity")
    assert threshold_for(probs, present, **{side: 0.9}, assured=assured).units == least
    with pytest.raises(DataError, match=f"{side} 0.9: needs {least} patients .* there are {least - 1}$"):
        threshold_for(probs[1:], present[1:], **{side: 0.9}, assured=assured)


def test_the_threshold_of_single_images_is_a_rank():
    probs, present = torch.arange(1, 41).double() / 100, torch.ones(40, dtype=torch.bool)
    assert threshold_for(probs, present, sensitivity=0.95).threshold == pytest.approx(0.02)  # floor(.05 x 41) = 2
    cut = threshold_for(probs, ~present, specificity=0.95)
    called = probs >= cut.threshold
    assert called.tolist() == [False] * 39 + [True]


def drawn_shares(patients: int, images: int, draws: int, **wish) -> torch.Tensor:
    """(draws,) the true sensitivity of thresholds chosen on so many patients whose images are alike."""
    generator, shares = seeded(1), []
    for _ in range(draws):
        level = torch.randn(patients, 1, generator=generator, dtype=torch.float64)
        scores = level + torch.randn(patients, images, generator=generator, dtype=torch.float64)
        groups = [str(patient) for patient in range(patients) for _ in range(images)]
        cut = threshold_for(scores.flatten().sigmoid(), torch.ones(scores.numel()), groups=groups, **wish)
        shares.append(0.5 * math.erfc(math.log(cut.threshold / (1 - cut.threshold)) / 2))  # of N(0, 2)
    return torch.tensor(shares)


def test_patients_count_once_however_many_images_they_have():
    shares = drawn_shares(25, 12, 300, sensitivity=0.9)
    assert 0.9 <= shares.mean() < 0.96
    # each image a patient of its own: the same on average, and far less than is said to be sure
    assert shares.std() > 1.4 * (0.9 * 0.1 / 301) ** 0.5


def test_an_assured_sensitivity_is_reached_in_nearly_all_draws():
    on_average, assured = (drawn_shares(60, 1, 300, sensitivity=0.95, assured=each) for each in (False, True))
    assert (on_average >= 0.95).double().mean() < 0.8
    assert (assured >= 0.95).double().mean() > 0.9
    assert (drawn_shares(60, 6, 100, sensitivity=0.95, assured=True) >= 0.95).all()


def test_the_share_that_is_reached_lies_in_the_range_that_is_said():
    generator, inside = seeded(2), 0
    for _ in range(300):
        cut = threshold_for(torch.rand(50, generator=generator), torch.ones(50), sensitivity=0.9)
        inside += cut.reached[0] <= 1 - cut.threshold <= cut.reached[1]
    assert inside >= 0.9 * 300


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), count=st.integers(30, 60), wish=st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_the_rows_themselves_have_what_is_wished_for(seed, count, wish):
    generator = seeded(seed)
    probs = torch.randint(0, 12, (count,), generator=generator) / 12  # with ties
    groups = [str(int(unit)) for unit in torch.randint(0, 25, (count,), generator=generator)]
    groups += [f"own {n}" for n in range(20)]
    probs = torch.cat((probs, torch.rand(20, generator=generator)))
    for side in ("sensitivity", "specificity"):
        present = torch.full((len(probs),), side == "sensitivity")
        cut = threshold_for(probs, present, **{side: wish}, groups=groups)
        right = (probs >= cut.threshold) == present
        by_patient = [right[[g == group for g in groups]].double().mean() for group in set(groups)]
        assert sum(by_patient) / len(by_patient) >= wish
        assert cut.reached[0] < cut.reached[1]


def test_rates_have_intervals_that_respect_patients():
    generator = seeded(3)
    present = torch.rand(200, generator=generator) < 0.5
    probs = (present + torch.rand(200, generator=generator)) / 2
    groups = [f"{n // 10}" for n in range(200)]
    alone, together = (rates_at(0.6, probs, present, each) for each in (None, groups))
    assert alone.sensitivity == together.sensitivity and alone.counts == together.counts
    assert alone.intervals["sensitivity"] != together.intervals["sensitivity"]
    assert sum(alone.counts) == 200
    none_called = rates_at(1.1, probs, present)
    assert none_called.ppv is None and "ppv" not in none_called.intervals and none_called.specificity == 1


def test_predictive_values_follow_the_prevalence():
    rare, common = (predictive_values(90, 100, 190, 200, prevalence) for prevalence in (0.01, 0.5))
    assert rare.ppv == pytest.approx(0.009 / (0.009 + 0.99 * 0.05))
    assert rare.ppv < common.ppv and rare.npv > common.npv
    assert rare.ppv_interval[0] < rare.ppv < rare.ppv_interval[1]


def test_intervals_of_predictive_values_hold_where_all_are_right():
    perfect = predictive_values(50, 50, 50, 50, 0.01)
    assert (perfect.ppv, perfect.npv) == (1, 1)
    assert perfect.ppv_interval[0] < 0.3 and perfect.ppv_interval[1] == 1  # 50 images cannot tell 1 % from 3 %
    assert predictive_values(0, 50, 0, 50, 0.1).ppv_interval[0] == 0
    with pytest.raises(DataError, match="images with the finding and images without"):
        predictive_values(0, 0, 5, 5, 0.1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    sides=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    prevalence=st.floats(0.001, 0.999),
)
def test_predictive_values_lie_in_their_intervals(seed, sides, prevalence):
    found, cleared = (int(torch.randint(0, n + 1, (), generator=seeded(seed + n))) for n in sides)
    made = predictive_values(found, sides[0], cleared, sides[1], prevalence)
    mirrored = predictive_values(cleared, sides[1], found, sides[0], 1 - prevalence)
    assert 0 <= made.ppv_interval[0] <= made.ppv <= made.ppv_interval[1] <= 1
    assert (made.ppv, *made.ppv_interval) == pytest.approx((mirrored.npv, *mirrored.npv_interval))


def test_intervals_of_predictive_values_hold_the_true_value():
    generator = seeded(4)
    for with_it, without_it, sensitivity, specificity, prevalence in (
        (10, 50, 0.9, 0.9, 0.1),
        (30, 300, 0.95, 0.8, 0.02),
        (3, 30, 0.9, 0.95, 0.1),
    ):
        truth = sensitivity * prevalence / (sensitivity * prevalence + (1 - specificity) * (1 - prevalence))
        drawn = [(torch.rand(600, n, generator=generator) < p).sum(1).tolist() for n, p in (
            (with_it, sensitivity), (without_it, specificity),
        )]  # fmt: skip
        made = [predictive_values(x, with_it, y, without_it, prevalence).ppv_interval for x, y in zip(*drawn)]
        assert sum(low <= truth <= high for low, high in made) / 600 > 0.92


def test_net_benefit_of_a_perfect_model_is_the_prevalence():
    present = torch.tensor([True, False, False, False])
    curve = decision_curve(present.double(), present, torch.tensor([0.1, 0.5, 0.9]))
    assert curve.model.tolist() == [0.25] * 3
    assert curve.everyone.tolist() == pytest.approx([0.25 - 0.75 / 9, -0.5, 0.25 - 0.75 * 9])


def test_recalibration_finds_the_scale_that_was_put_in():
    generator = seeded(5)
    truth = 1.5 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    present = torch.rand(20_000, generator=generator) < truth.sigmoid()
    right, extreme, shifted = (recalibration(each.sigmoid(), present) for each in (truth, 2 * truth, truth - 1))
    assert right.slope == pytest.approx(1, abs=0.05) and right.intercept == pytest.approx(0, abs=0.05)
    assert extreme.slope == pytest.approx(0.5, abs=0.03)
    assert shifted.intercept == pytest.approx(1, abs=0.05) and shifted.slope == pytest.approx(right.slope)
    assert right.brier < extreme.brier and right.slope_interval[0] < 1 < right.slope_interval[1]


def test_slopes_are_those_of_scikit_learn_and_their_intervals_respect_patients():
    from sklearn.linear_model import LogisticRegression

    generator = seeded(6)
    log_odds = torch.randn(300, generator=generator, dtype=torch.float64)
    present = torch.rand(300, generator=generator) < (0.7 * log_odds + 0.2).sigmoid()
    peer = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(log_odds[:, None].numpy(), present.numpy())
    alone = recalibration(log_odds.sigmoid(), present)
    assert alone.slope == pytest.approx(float(peer.coef_[0, 0]), rel=1e-5)
    twice = recalibration(log_odds.sigmoid().repeat(2), present.repeat(2), [str(n) for n in range(300)] * 2)
    assert twice.slope == pytest.approx(alone.slope)
    assert twice.slope_interval == pytest.approx(alone.slope_interval, rel=1e-6)  # the same images again tell no more


def test_outcomes_that_are_separated_or_alike_have_no_slope():
    probs = torch.linspace(0.1, 0.9, 20)
    assert recalibration(probs, probs > 0.5).slope is None
    alike = recalibration(probs, torch.ones(20))
    assert (
        alike.slope is None
        and alike.intercept is None
        and alike.brier == pytest.approx(float(((probs - 1) ** 2).mean()))
    )


@settings(max_examples=40)
@given(share=st.floats(0, 1), width=st.floats(0.01, 0.6))
def test_so_many_images_make_the_interval_as_narrow_as_wished(share, width):
    def width_of(n: int) -> float:
        low, high = clopper_pearson(share * n, n)
        return high - low

    needed = units_needed(share, width)
    assert width_of(needed) <= width + 1e-9
    assert needed == 1 or width_of(needed - 1) > width - 1e-9


def test_images_needed_agree_with_the_interval_that_is_printed():
    low, high = exact_interval(90, 100)
    assert units_needed(0.9, high - low) == 100


def test_predictive_values_of_patients_are_less_certain_than_of_as_many_images():
    generator = seeded(7)
    level = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    probs = (level + 0.3 * torch.randn(40, 10, generator=generator, dtype=torch.float64)).flatten().sigmoid()
    present = torch.arange(40).repeat_interleave(10) % 2 == 0
    groups = [str(patient) for patient in range(40) for _ in range(10)]
    alone, by_patient = (predictive_values_at(0.5, probs, present, 0.1, of) for of in (None, groups))
    rates = rates_at(0.5, probs, present)
    true, false, missed, clear = rates.counts
    assert alone == predictive_values(true, true + missed, clear, clear + false, 0.1)
    assert by_patient.ppv == pytest.approx(alone.ppv) and by_patient.npv == pytest.approx(alone.npv)
    for wide, narrow in ((by_patient.ppv_interval, alone.ppv_interval), (by_patient.npv_interval, alone.npv_interval)):
        assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    with pytest.raises(DataError, match="images with the finding and images without it"):
        predictive_values_at(0.5, probs, torch.ones(400), 0.1)
