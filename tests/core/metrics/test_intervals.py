"""Intervals have the published limits, follow the smallest class and the groups, and agree with the tests shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vladapt.core.errors import DataError
from vladapt.core.metrics.intervals import (
    balanced_interval,
    class_intervals,
    clopper_pearson,
    mover,
    normal_level,
    normal_quantile,
    p_of_intervals,
    p_of_loss,
    paired_shares,
    share_interval,
    t_quantile,
    tango,
)


def bits(seed: int, share: float, count: int = 60) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_exact_limits_are_the_published_ones(hits, total, low, high):
    """Newcombe, Statistics in Medicine 17, 1998, pages 857 to 872, table I, method 5."""
    assert clopper_pearson(hits, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_tangos_limits_are_the_published_ones():
    """Airway hyper-responsiveness of 21 children, 7 against 1: Fagerland, Lydersen and Laake, Statistics in Medicine
    33, 2014, pages 2850 to 2875."""
    low, high = tango(1, 7, 21, normal_quantile())
    assert (low, high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


def test_tangos_limits_of_equal_answers_are_those_of_the_closed_form():
    """Without a discordant image, |d| <= z sqrt(|d| (1 - |d|) / n)."""
    square = normal_quantile() ** 2
    low, high = tango(0, 0, 30, normal_quantile())
    assert (-low, high) == (pytest.approx(square / (30 + square)), pytest.approx(square / (30 + square)))


def test_three_right_images_of_a_rare_class_leave_much_open():
    labels = (torch.arange(300) >= 297).long()
    low, high = balanced_interval(torch.ones(300).bool(), labels)
    least = [0.025 ** (1 / count) for count in (297, 3)]
    assert low == pytest.approx(1 - math.hypot(*(1 - each for each in least)) / 2) and low < 0.65 and high == 1


def test_mover_of_one_estimate_is_its_own_interval_and_of_several_adds_squares():
    limits = (np.array([0.5, 0.2]), np.array([0.9, 0.6]))
    low, high = mover([0.8, 0.3], limits)
    assert (low, high) == (
        pytest.approx(0.55 - math.hypot(0.3, 0.1) / 2),
        pytest.approx(0.55 + math.hypot(0.1, 0.3) / 2),
    )
    assert mover([0.8], (limits[0][:1], limits[1][:1])) == (pytest.approx(0.5), pytest.approx(0.9))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 40), st.integers(2, 6), st.integers(0, 99))
def test_shares_have_intervals_around_them_that_shrink_as_images_are_added(hits, misses, more, seed):
    right = torch.arange(hits + misses) < hits
    groups = torch.randint(5, (len(right),), generator=torch.Generator().manual_seed(seed))
    for of in (None, groups):
        low, high = share_interval(right, of)
        assert 0 <= low <= hits / len(right) + 1e-12 and hits / len(right) - 1e-12 <= high <= 1 and low < high
        labels = torch.arange(len(right)) % 2
        balanced = balanced_interval(right, labels, of)
        assert 0 <= balanced[0] < balanced[1] <= 1
    low, high = share_interval(right)
    wider, narrower = high - low, np.subtract(*reversed(share_interval(right.repeat(more))))
    assert narrower < wider
    ((first, last),) = class_intervals(right, torch.zeros(len(right)).long(), 1)
    ((low, high),) = class_intervals(right.repeat(more), torch.zeros(more * len(right)).long(), 1)
    assert high - low < last - first


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.sampled_from([12, 40, 90]))
@example(8593, 0.95, 0.05, 40)  # of one class no group differs from another
@example(5756, 0.95, 0.95, 40)
def test_a_p_value_is_below_its_level_exactly_where_the_interval_leaves_out_0(seed, before, after, count):
    one, other = bits(seed, before, count), bits(seed + 1, after, count)
    labels = (torch.arange(count) % 5 > 0).long()
    for groups in (None, torch.arange(count) // 4):
        for of in (None, labels):
            gain, back = paired_shares(one, other, groups, of), paired_shares(other, one, groups, of)
            low, high = gain.interval()
            assert -1 <= low < high <= 1 and low <= gain.value + 1e-9 and gain.value - 1e-9 <= high
            assert (gain.p_value < 0.05) == (not low <= 0 <= high)
            assert back.interval() == (pytest.approx(-high, abs=1e-9), pytest.approx(-low, abs=1e-9))
            assert back.p_value == pytest.approx(gain.p_value, abs=1e-6) and back.gained == gain.lost
            if 1e-9 < gain.p_value < 0.9:  # at every level, too
                for level in (1 - gain.p_value * 1.02, 1 - gain.p_value * 0.98):
                    low, high = gain.interval(level)
                    assert (gain.p_value < 1 - level) == (not low <= 0 <= high)


def test_the_test_of_independent_images_is_mcnemars():
    gained = torch.arange(60) < 20
    lost = (torch.arange(60) >= 20) & (torch.arange(60) < 29)
    found = paired_shares(~gained, ~lost)
    assert (found.gained, found.lost, found.value) == (20, 9, pytest.approx(11 / 60))
    assert found.p_value == pytest.approx(math.erfc(11 / math.sqrt(2 * 29)))


def test_equal_answers_have_an_interval_of_some_width():
    right = bits(0, 0.7)
    for groups in (None, torch.arange(60) // 5):
        for labels in (None, torch.arange(60) % 3):
            found = paired_shares(right, right, groups, labels)
            low, high = found.interval()
            assert found.p_value == pytest.approx(1) and low < -0.02 and high > 0.02


def test_images_told_several_times_count_once():
    right, other = bits(3, 0.8), bits(4, 0.6)
    thrice, image = (each.repeat_interleave(3) for each in (right, torch.arange(60)))
    alone, grouped, wrong = share_interval(right), share_interval(thrice, image), share_interval(thrice)
    assert grouped[1] - grouped[0] > 1.6 * (wrong[1] - wrong[0])
    assert grouped == pytest.approx(alone, abs=0.02)
    one, three = paired_shares(right, other), paired_shares(thrice, other.repeat_interleave(3), image)
    assert three.interval() == pytest.approx(one.interval(), abs=0.01)
    fits = paired_shares(torch.stack([right, right]), torch.stack([other, other]))
    assert fits.interval() == pytest.approx(one.interval(), abs=0.01) and fits.value == one.value


def test_groups_of_one_image_are_no_groups():
    right, labels, groups = bits(1, 0.7), torch.arange(60) % 3, [f"image {i}" for i in range(60)]
    assert share_interval(right, groups) == share_interval(right)
    assert balanced_interval(right, labels, groups) == balanced_interval(right, labels)
    assert class_intervals(right, labels, 4, groups) == class_intervals(right, labels, 4)
    assert class_intervals(right, labels, 4)[3] is None
    assert paired_shares(right, ~right, groups).bounds == paired_shares(right, ~right).bounds


def test_the_effective_number_is_korn_and_graubards():
    """Where half a unit more tells no larger variance."""
    unit = torch.arange(300) // 10
    right = (torch.arange(300) % 10) < torch.tensor([9, 5, 2, 8, 4, 7] * 5)[unit]
    share, sums = float(right.double().mean()), torch.bincount(unit, right.double())
    variance = 30 / 29 * float((sums - 10 * share).square().sum()) / 300**2
    size = share * (1 - share) / variance * float(t_quantile(299) / t_quantile(29)) ** 2
    assert share_interval(right.double(), unit) == pytest.approx(np.array(clopper_pearson(size * share, size)))


def test_groups_that_are_all_right_count_as_one_image_each():
    assert share_interval(torch.ones(80).bool(), torch.arange(80) // 10) == [pytest.approx(0.025 ** (1 / 8)), 1]


@pytest.mark.parametrize("value", [0.5, 0.25, 1.0])
def test_means_that_do_not_vary_are_not_certain(value):
    low, high = share_interval(torch.full((20,), value))
    assert low < value - 0.01 and high - low > 0.05


def test_a_mean_of_shares_has_the_width_of_its_spread():
    """That of a mean of 400 numbers, where they vary less than answers do."""
    values = 0.6 + 0.1 * torch.randn(400, generator=torch.Generator().manual_seed(0)).clamp(-2, 2).double()
    low, high = share_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.1)


def test_a_single_group_tells_no_difference():
    one, other = bits(0, 0.9), bits(1, 0.2)
    found = paired_shares(one, other, torch.zeros(60).long())
    assert found.bounds is None and found.p_value == 1


def test_classes_of_one_group_err_together():
    """Of patients who have images of both classes, all right or all wrong: their classes are no independent halves."""
    right, unit = bits(5, 0.7, 20).repeat_interleave(10), torch.arange(200) // 10
    both, whole = torch.arange(200) % 2, (torch.arange(200) // 10) % 2
    of_both = balanced_interval(right, both, unit)
    assert of_both == pytest.approx(share_interval(right, unit), abs=0.02)
    of_one = balanced_interval(right, whole, unit)
    assert of_one[0] < 0.7 < of_one[1]


def test_levels_and_quantiles_belong_together():
    assert normal_quantile() == pytest.approx(1.959964) and normal_level(normal_quantile(0.8)) == pytest.approx(0.8)
    assert float(t_quantile(2)) == pytest.approx(4.302653)
    wide = share_interval(bits(0, 0.5), level=0.99)
    assert wide[0] < share_interval(bits(0, 0.5))[0]


def test_the_p_value_of_an_interval_is_where_it_reaches_the_value():
    def of_mean(level):
        return 2 - normal_quantile(level), 2 + normal_quantile(level)

    assert p_of_intervals(of_mean) == pytest.approx(math.erfc(2 / math.sqrt(2)), rel=1e-6)
    assert p_of_intervals(of_mean, 2.0) == pytest.approx(1)
    assert p_of_intervals(lambda level: (5.0, 6.0)) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize("images_of_a_group", [1, 3])
@pytest.mark.parametrize("lost", [0, 4, 9, 20])
def test_the_test_of_a_loss_is_the_one_that_tangos_interval_inverts(lost, images_of_a_group):
    before = torch.arange(90) >= 10
    after = before.clone()
    after[40 : 40 + lost], after[:2] = False, True
    groups = None if images_of_a_group == 1 else torch.arange(90) // images_of_a_group
    gain, p = paired_shares(before, after, groups), p_of_loss(before, after, 0.05, groups)
    two_sided = p_of_intervals(gain.interval, -0.05)
    assert p == pytest.approx(two_sided / 2 if gain.value < -0.05 else 1 - two_sided / 2, rel=1e-4)


def test_no_loss_is_shown_by_a_single_group():
    assert p_of_loss(bits(0, 1.0), bits(0, 0.0), 0.05, torch.zeros(60).long()) == 1


def test_classes_that_err_in_no_unit_may_err_in_the_same_ones():
    """Five answers on each image that never change leave as much open as one."""
    right = torch.ones(60, dtype=torch.bool)
    once = paired_shares(right, right).bounds
    image, of = torch.arange(60).repeat(5), torch.arange(5).repeat_interleave(60)
    five = paired_shares(right.repeat(5), right.repeat(5), image, of).bounds
    pair = torch.arange(300) // 2
    apart, of_one = paired_shares(right.repeat(5), right.repeat(5), pair, of), paired_shares(right, right, pair[:60])
    assert once[1] < five[1] < 1.1 * once[1] and apart.bounds[1] < 0.6 * of_one.bounds[1]


def test_paired_shares_need_the_same_images():
    with pytest.raises(DataError, match="a paired test needs the same images"):
        paired_shares(bits(0, 0.5), bits(0, 0.5, 59))
