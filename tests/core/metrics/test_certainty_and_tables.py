"""Intervals and tests of an accuracy, calibration, the table of classes, the surest mistakes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from vladapt.core.errors import DataError
from vladapt.core.metrics import (
    calibration_curve,
    classification_metrics,
    exact_interval,
    mcnemar,
    multilabel_metrics,
    per_class_table,
    share_interval,
    top_label_mistakes,
    top_mistakes,
)
from vladapt.core.metrics.significance import p_words


def test_exact_interval_has_the_published_values():
    low, high = exact_interval(81, 263)  # Newcombe 1998, table I: 0.2527 to 0.3676
    assert (low, high) == (pytest.approx(0.2527, abs=1e-4), pytest.approx(0.3676, abs=1e-4))
    assert exact_interval(0, 20) == (pytest.approx(0.0), pytest.approx(0.1684, abs=1e-4))


@pytest.mark.parametrize("images", [12, 30, 100])
def test_intervals_of_an_accuracy_hold_it_whatever_it_is(images):
    limits = torch.tensor([share_interval(torch.arange(images) < right) for right in range(images + 1)]).numpy()
    for accuracy in (0.5, 0.7, 0.9, 0.97, 0.99, 0.994, 0.999):
        holds = (limits[:, 0] <= accuracy) & (accuracy <= limits[:, 1])
        assert binom.pmf(range(images + 1), images, accuracy)[holds].sum() >= 0.95


@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 500), data=st.data())
def test_exact_interval_holds_the_share_and_stays_in_range(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = exact_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-12 and correct / total - 1e-12 <= high <= 1
    mirrored = exact_interval(total - correct, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_a_higher_level_gives_a_wider_interval():
    narrow, wide = exact_interval(30, 60, level=0.8), exact_interval(30, 60, level=0.99)
    assert wide[0] < narrow[0] and narrow[1] < wide[1]


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (5, 4), (-1, 4)])
def test_exact_interval_refuses_impossible_counts(correct, total):
    with pytest.raises(DataError, match="no accuracy"):
        exact_interval(correct, total)


def test_mcnemar_counts_only_where_the_two_differ():
    before = torch.tensor([1, 1, 0, 0, 0, 0, 0, 1]).bool()
    after = torch.tensor([1, 0, 1, 1, 1, 1, 1, 1]).bool()
    found = mcnemar(before, after)
    assert (found.gained, found.lost) == (5, 1)
    assert found.p_value == pytest.approx(math.erfc(4 / math.sqrt(2 * 6)))
    back = mcnemar(after, before)
    assert (back.gained, back.lost, back.p_value) == (1, 5, pytest.approx(found.p_value))


def test_mcnemar_of_a_model_and_itself_is_chance():
    right = torch.tensor([True, False, True])
    assert mcnemar(right, right).p_value == 1.0
    with pytest.raises(DataError, match="same images"):
        mcnemar(right, right[:2])


def random_case(seed: int, n: int = 80, classes: int = 4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator) * 2, torch.randint(classes, (n,), generator=generator)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_calibration_curve_adds_up_to_the_expected_calibration_error(seed):
    logits, labels = random_case(seed)
    curve = calibration_curve(logits, labels)
    assert sum(b.count for b in curve) == len(labels)
    gap = sum(b.count / len(labels) * abs(b.accuracy - b.confidence) for b in curve if b.count)
    assert gap == pytest.approx(classification_metrics(logits, labels, 4)["ece"], abs=1e-5)


def test_full_confidence_falls_in_the_last_bin_and_bins_can_be_chosen():
    curve = calibration_curve(torch.tensor([[900.0, 0.0], [900.0, 0.0]]), torch.tensor([0, 1]), bins=5)
    assert [b.count for b in curve] == [0, 0, 0, 0, 2]
    assert (curve[-1].confidence, curve[-1].accuracy, curve[-1].high) == (1.0, 0.5, 1.0)
    assert curve[0].accuracy is None


def test_the_calibration_curve_of_several_labels_skips_unknown_ones():
    logits, labels = torch.tensor([[2.0, -2.0], [0.5, 3.0]]), torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    curve = calibration_curve(logits, labels)
    assert sum(b.count for b in curve) == 3
    gap = sum(b.count / 3 * abs(b.accuracy - b.confidence) for b in curve if b.count)
    assert gap == pytest.approx(multilabel_metrics(logits, labels, ["a", "b"])["ece"], abs=1e-5)


def test_the_table_of_classes_says_what_is_found_and_what_is_right():
    labels = torch.tensor([0, 0, 0, 1, 1])
    after = torch.eye(4)[[0, 0, 1, 1, 1]]
    before = torch.eye(4)[[0, 1, 1, 2, 2]]
    rows = per_class_table(labels, before, after, ["a", "b", "c", "d"])
    assert [row.images for row in rows] == [3, 2, 0, 0]
    assert rows[0].zero_shot_recall == pytest.approx(1 / 3) and rows[0].recall == pytest.approx(2 / 3)
    assert rows[0].precision == 1.0 and rows[1].precision == pytest.approx(2 / 3)
    assert rows[1].f1 == pytest.approx(0.8)
    assert rows[2].recall is None and rows[2].precision is None and rows[2].f1 is None
    assert per_class_table(labels, None, after, ["a", "b", "c", "d"])[0].zero_shot_recall is None


def test_recall_and_precision_of_a_class_have_exact_intervals_that_know_of_groups():
    labels, after = torch.tensor([0, 0, 0, 0, 1, 1]), torch.eye(3)[[0, 0, 0, 1, 1, 1]]
    first, second, absent = per_class_table(labels, None, after, ["a", "b", "c"])
    test = binomtest(3, 4).proportion_ci()
    assert first.recall_interval == pytest.approx([test.low, test.high])
    assert first.precision_interval == pytest.approx([0.025 ** (1 / 3), 1])
    assert second.recall_interval == pytest.approx([0.025 ** (1 / 2), 1])
    assert absent.recall_interval is None and absent.precision_interval is None
    grouped = per_class_table(labels, None, after, ["a", "b", "c"], ["p", "p", "p", "q", "r", "r"])
    assert grouped[1].recall_interval == pytest.approx([0.025, 1])  # of one patient


def test_the_surest_mistakes_come_first():
    logits = torch.tensor([[4.0, 0.0], [6.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
    found = top_mistakes(logits, torch.tensor([1, 1, 1, 0]), k=2)
    assert [(m.index, m.true, m.predicted) for m in found] == [(1, 1, 0), (0, 1, 0)]
    assert found[0].confidence == pytest.approx(float(torch.tensor(6.0).sigmoid()))
    assert top_mistakes(logits, torch.zeros(4).long(), k=5) == []


def test_the_surest_wrong_labels_come_first_and_unknown_ones_never():
    logits = torch.tensor([[3.0, -5.0], [9.0, 2.0]])
    labels = torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])
    found = top_label_mistakes(logits, labels, k=5)
    assert [(m.index, m.label, m.present) for m in found] == [(0, 1, True), (0, 0, False)]
    assert found[0].confidence == pytest.approx(1 - float(torch.tensor(-5.0).sigmoid()), abs=1e-6)
    assert len(top_label_mistakes(logits, labels, k=1)) == 1


@pytest.mark.parametrize(
    ("p", "words"), [(1e-6, "p < 0.0001"), (0.0321, "p = 0.032"), (0.00012, "p = 0.00012"), (0.4567, "p = 0.46")]
)
def test_a_p_value_is_written_with_two_digits(p, words):
    assert p_words(p) == words
