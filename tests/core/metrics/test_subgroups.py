"""Parts of a test set: their shares, and whether they differ by more than chance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from vladapt.core.metrics.subgroups import LEAST_UNITS, quartiles, shrunk_shares, subgroups


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_parts(first: int, second: int, of: int = 40) -> tuple[torch.Tensor, list[str]]:
    """So many of 40 right in each of two parts."""
    right = torch.cat((torch.arange(of) < first, torch.arange(of) < second))
    return right, ["a"] * of + ["b"] * of


def test_shares_of_parts_and_the_gap_between_them():
    right, part_of = two_parts(38, 20)
    made = subgroups(right, part_of)
    assert [(part.name, part.images, part.units, part.share) for part in made.parts] == [
        ("a", 40, 40, 0.95),
        ("b", 40, 40, 0.5),
    ]
    assert made.differ and [part.name for part in made.gap] == ["a", "b"]


@pytest.mark.parametrize("seconds", [30, 33, 36])
def test_the_p_value_of_two_parts_is_that_of_fishers_exact_test(seconds):
    right, part_of = two_parts(36, seconds)
    exact = fisher_exact([[36, 4], [seconds, 40 - seconds]]).pvalue
    assert subgroups(right, part_of).p_value == pytest.approx(exact, abs=0.015)


def test_no_gap_is_named_between_parts_that_do_not_differ():
    made = subgroups(*two_parts(36, 33))
    assert made.p_value > 0.05 and made.gap is None


def test_small_parts_and_images_without_one_are_left_out():
    right, part_of = two_parts(36, 30)
    more = subgroups(
        torch.cat((right, torch.zeros(LEAST_UNITS, dtype=torch.bool))), [*part_of, *["c"] * (LEAST_UNITS - 1), ""]
    )
    assert more.parts == subgroups(right, part_of).parts
    assert more.left_out == 1 and more.p_value == subgroups(right, part_of).p_value
    assert subgroups(right[:40], part_of[:40]).p_value is None


def test_intervals_hold_together():
    right, part_of = two_parts(36, 30)
    alone, together = subgroups(right[:40], part_of[:40]).parts[0], subgroups(right, part_of).parts[0]
    assert together.interval[0] < alone.interval[0] < alone.share < alone.interval[1] < together.interval[1]


def test_patients_are_dealt_whole():
    """What ten images of each patient say together is no more than what one says."""
    right = torch.rand(60, generator=seeded(0)) < 0.8
    part_of = ["a"] * 30 + ["b"] * 30
    patients = [str(n) for n in range(60)]
    once = subgroups(right, part_of, patients)
    ten = subgroups(right.repeat_interleave(10), [p for p in part_of for _ in range(10)], [
        p for p in patients for _ in range(10)
    ])  # fmt: skip
    assert ten.p_value == once.p_value
    assert [part.units for part in ten.parts] == [30, 30]
    as_images = subgroups(right.repeat_interleave(10), [p for p in part_of for _ in range(10)])
    assert as_images.p_value < ten.p_value


def test_a_patient_seen_in_two_parts_counts_in_both():
    right, part_of = torch.ones(60, dtype=torch.bool), ["a", "b"] * 30
    made = subgroups(right, part_of, [str(n // 2) for n in range(60)])
    assert [part.units for part in made.parts] == [30, 30] and made.p_value == 1


def test_parts_that_are_alike_are_called_different_no_more_than_promised():
    generator, called = seeded(1), 0
    for seed in range(50):
        patient = torch.rand(60, 1, generator=generator) < 0.7
        right = (patient | (torch.rand(60, 4, generator=generator) < 0.2)).flatten()
        part_of = [name for name in "abc" for _ in range(20) for _ in range(4)]
        groups = [str(n) for n in range(60) for _ in range(4)]
        called += subgroups(right, part_of, groups, seed=seed).differ
    assert called <= 6


def test_many_numbers_are_cut_at_their_quartiles():
    of_rows, names = quartiles(["", *map(str, range(20))])
    assert names == ["up to 4", "above 4, up to 9", "above 9, up to 14", "above 14"]
    assert of_rows[0] == "" and [of_rows.count(name) for name in names] == [5, 5, 5, 5]
    assert [of_rows[1 + n] for n in (4, 5, 19)] == names[:2] + names[-1:]


def test_numbers_that_repeat_much_give_fewer_parts():
    names = quartiles(["0"] * 60 + [str(n) for n in range(1, 21)])[1]
    assert names == ["up to 0", "above 0"]


@pytest.mark.parametrize("values", [["1", "2", "3"] * 9, ["a", *map(str, range(30))], ["inf", *map(str, range(30))]])
def test_few_numbers_and_texts_stay_as_they_are(values):
    assert quartiles(values) is None


@given(st.lists(st.integers(-1000, 1000), min_size=12, max_size=80, unique=True))
def test_each_quarter_holds_as_many_numbers(numbers):
    of_rows, names = quartiles([str(number) for number in numbers])
    counts = [of_rows.count(name) for name in names]
    assert sum(counts) == len(numbers) and max(counts) - min(counts) <= 2
    order = [names.index(of_rows[row]) for row in sorted(range(len(numbers)), key=numbers.__getitem__)]
    assert order == sorted(order)


def test_the_worst_of_ten_equal_parts_of_twenty_is_drawn_to_the_truth():
    """Its plain share lies 14 points below; a part that is worse stays so where there are enough images."""
    drawn = torch.binomial(torch.full((2000, 10), 20.0), torch.tensor(0.8), generator=seeded(0)) / 20
    shrunk = torch.tensor([shrunk_shares(shares, [20] * 10) for shares in drawn.tolist()])
    plain, worst = (float((each.min(dim=1).values - 0.8).mean()) for each in (drawn, shrunk))
    assert plain == pytest.approx(-0.14, abs=0.01) and abs(worst) < 0.04
    assert shrunk_shares([0.9, 0.9, 0.5], [1000, 1000, 1000])[2] == pytest.approx(0.5, abs=0.01)


def test_shares_are_drawn_by_how_few_images_they_rest_on():
    few, many = shrunk_shares([0.9, 0.5, 0.9, 0.5], [400, 20, 400, 400])[1::2]
    assert many < few < 0.72 and abs(many - 0.5) < 0.02
    assert shrunk_shares([0.7, 0.7], [20, 30]) == pytest.approx([0.7, 0.7])
    assert shrunk_shares([1.0, 1.0], [20, 30]) == [1.0, 1.0] and shrunk_shares([], []) == []
    assert shrunk_shares([0.3], [20]) == pytest.approx([0.3])


def test_images_of_a_patient_count_as_few():
    """Ten images of each patient tell as much as one where a patient's answers agree."""
    patients = torch.rand(80, generator=seeded(1)) < 0.7
    right, part_of = patients.repeat_interleave(10), ["a"] * 300 + ["b"] * 500
    groups = [f"patient {n // 10}" for n in range(800)]
    apart, together = subgroups(right, part_of).parts, subgroups(right, part_of, groups).parts
    assert apart[0].share == together[0].share
    assert abs(together[0].shrunk - together[1].shrunk) < abs(apart[0].shrunk - apart[1].shrunk)


def test_few_numbers_of_a_factor_are_cut_too():
    values = [str(n % 6) for n in range(60)]
    assert quartiles(values) is None
    names, order = quartiles(values, 4)
    assert order == ["up to 1", "above 1, up to 2", "above 2, up to 4", "above 4"] and names[:2] == ["up to 1"] * 2
    assert quartiles(values, 4, parts=2)[1] == ["up to 2", "above 2"] == quartiles(values, 4, parts=0)[1]
