"""AUROCs have DeLong's variances, and intervals that follow the rarer value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.metrics import delong_as_released

from vladapt.core.metrics import auroc_interval, classification_metrics, multilabel_metrics
from vladapt.core.metrics.score_intervals import Aurocs, auroc_difference, components, delong_test, hanley_mcneil


def drawn(seed: int, positives: int, negatives: int, shift: float = 1.0):
    """Scores (N, 1) with ties, and truth (N, 1)."""
    truth = (torch.arange(positives + negatives) < positives).double()[:, None]
    scores = torch.randn(len(truth), 1, generator=torch.Generator().manual_seed(seed)) + shift * truth
    return (scores * 4).round() / 4, truth


def test_variance_and_covariance_are_the_released_ones(agrees):
    agrees(delong_as_released)


def test_the_paired_test_is_the_released_one(parity):
    ref = parity.reference("clinical_metrics")
    test = delong_test(ref["delong.score_a"], ref["delong.score_b"], ref["delong.labels"].double())
    assert (test.first, test.second) == pytest.approx(ref["delong.auc"].flatten().tolist(), abs=1e-6)
    assert test.p_value == pytest.approx(float(ref["delong.p"]), rel=1e-5)
    assert math.log10(test.p_value) == pytest.approx(float(ref["delong.log10_p"]), rel=1e-5)
    assert abs(test.z) == pytest.approx(float(ref["OWN.delong.z"]), rel=1e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 30), st.integers(2, 30))
def test_the_paired_test_is_antisymmetric_and_says_nothing_of_equal_ranks(seed, positives, negatives):
    scores, truth = (each[:, 0] for each in drawn(seed, positives, negatives))
    others = torch.randn(len(truth), generator=torch.Generator().manual_seed(seed + 1))
    one, other = delong_test(scores, others, truth), delong_test(others, scores, truth)
    assert one.difference == -other.difference and one.p_value == other.p_value
    assert one.interval[0] <= one.difference <= one.interval[1]
    same = delong_test(scores, 2 * scores + 1, truth)
    assert same.p_value == 1 and same.interval[0] < 0 < same.interval[1]
    assert delong_test(scores[positives - 1 :], others[positives - 1 :], truth[positives - 1 :]) is None


def test_the_paired_test_counts_patients_not_images():
    scores, truth = (each[:, 0] for each in drawn(0, 20, 28))
    others = torch.randn(48, generator=torch.Generator().manual_seed(1))
    patients = [f"p{n // 2}" for n in range(48)]
    of_pairs = [each.repeat_interleave(2) for each in (scores, others, truth)]
    doubled = delong_test(*of_pairs, [f"p{n // 2}" for n in range(96)])
    assert doubled.z == pytest.approx(delong_test(scores, others, truth).z)
    assert delong_test(*of_pairs).p_value < doubled.p_value
    assert delong_test(scores, others, truth, patients).z != pytest.approx(delong_test(scores, others, truth).z)


def test_hanley_and_mcneils_variance_is_the_published_one():
    """An area of 0.893 on 51 abnormal and 58 normal images has a standard error of 0.032 (Radiology 143, 1982)."""
    assert math.sqrt(hanley_mcneil(0.893, 51, 58)) == pytest.approx(0.032, abs=7e-4)


def test_the_variance_of_groups_is_obuchowskis():
    scores, truth = drawn(0, 20, 28)
    unit = np.arange(48) % 8  # each group has both values
    value, influence, fewer = components(scores[:, 0].numpy(), truth[:, 0].numpy(), unit, 8)
    positive, negative = scores[truth == 1], scores[truth == 0]
    pairs = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative)
    above, below, sums = pairs.mean(dim=1), pairs.mean(dim=0), {}
    for name, rows, of in (("x", np.arange(20), above), ("y", np.arange(20, 48), below)):
        sums[name] = np.array([float((of - value)[unit[rows] == group].sum()) for group in range(8)])
    squares = {name: 8 / 7 * (of**2).sum() for name, of in sums.items()}
    cross = 8 / 7 * (sums["x"] * sums["y"]).sum()
    wanted = squares["x"] / 20**2 + squares["y"] / 28**2 + 2 * cross / (20 * 28)
    assert value == pytest.approx(float(pairs.mean())) and fewer == 8
    assert float((influence**2).sum()) == pytest.approx(wanted)


@pytest.mark.parametrize(("positives", "negatives"), [(3, 297), (297, 3), (1, 9)])
def test_what_is_all_ranked_right_leaves_open_what_its_rarer_value_does(positives, negatives):
    _, truth = drawn(0, positives, negatives)
    least = 0.025 ** (1 / min(positives, negatives))
    assert Aurocs.of(truth, truth).interval() == (pytest.approx(least), 1)
    assert Aurocs.of(-truth, truth).interval() == (0, pytest.approx(1 - least))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 30), st.integers(1, 30), st.floats(-2, 4), st.booleans())
def test_an_interval_is_around_the_value_and_turns_with_the_truth(seed, positives, negatives, shift, grouped):
    scores, truth = drawn(seed, positives, negatives, shift)
    groups = torch.arange(len(truth)) % 7 if grouped else None
    found, turned = Aurocs.of(scores, truth, groups), Aurocs.of(scores, 1 - truth, groups)
    low, high = found.interval()
    assert 0 <= low <= found.macro + 1e-9 and found.macro - 1e-9 <= high <= 1 and low < high
    assert turned.interval() == (pytest.approx(1 - high), pytest.approx(1 - low))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([(3, 40), (20, 20), (60, 30)]), st.floats(-1, 2), st.booleans())
def test_a_difference_turns_with_the_models_and_its_test_agrees(seed, counts, shift, grouped):
    (one, truth), (other, _) = drawn(seed, *counts), drawn(seed + 1, *counts, shift)
    groups = torch.arange(len(truth)) % 9 if grouped else None
    before, after = (Aurocs.of(of, truth, groups) for of in (one, other))
    gain, back, alone = auroc_difference(before, after), auroc_difference(after, before), auroc_difference(None, after)
    assert gain.value == pytest.approx(after.macro - before.macro) and alone.value == pytest.approx(after.macro - 0.5)
    assert back.interval() == (pytest.approx(-gain.interval()[1]), pytest.approx(-gain.interval()[0]))
    for each in (gain, alone):
        low, high = each.interval()
        assert low < high and (each.p_value < 0.05) == (not low <= 0 <= high)


def test_equal_rankings_have_an_interval_of_some_width():
    scores, truth = drawn(0, 5, 95)
    found = auroc_difference(Aurocs.of(scores, truth), Aurocs.of(3 * scores, truth))
    assert (found.value, found.p_value) == (0, 1) and found.interval()[1] > 0.3


def test_more_images_tell_more():
    scores, truth = drawn(0, 10, 40)
    widths = [np.subtract(*reversed(Aurocs.of(scores.repeat(n, 1), truth.repeat(n, 1)).interval())) for n in (1, 3, 9)]
    assert widths[0] > widths[1] > widths[2]
    images = torch.arange(50).repeat(3)
    told_thrice = Aurocs.of(scores.repeat(3, 1), truth.repeat(3, 1), images)
    assert told_thrice.interval() == pytest.approx(Aurocs.of(scores, truth).interval(), abs=0.02)


def test_labels_that_err_together_have_a_wider_mean():
    scores, truth = drawn(0, 40, 60)
    again, _ = drawn(1, 40, 60)
    alike, apart = (Aurocs.of(torch.cat([scores, of], dim=1), truth.repeat(1, 2)) for of in (scores, again))
    assert alike.interval() == pytest.approx(Aurocs.of(scores, truth).interval(), abs=0.01)
    low, high = apart.interval()
    assert high - low < 0.85 * (alike.interval()[1] - alike.interval()[0])


def test_several_fits_are_one_mean():
    scores, truth = drawn(0, 20, 30)
    other, _ = drawn(5, 20, 30)
    twice, once = Aurocs.of(torch.stack([scores, scores]), truth), Aurocs.of(scores, truth)
    assert twice.interval() == pytest.approx(once.interval())
    both = Aurocs.of(torch.stack([scores, other]), truth)
    assert both.macro == pytest.approx((once.macro + Aurocs.of(other, truth).macro) / 2)


@pytest.mark.parametrize("groups", [None, tuple(f"patient {i // 5}" for i in range(60))])
def test_its_mean_is_that_of_the_metrics(groups):
    generator = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(4, (60,), generator=generator), torch.randn(60, 4, generator=generator)
    low, high = auroc_interval(logits, labels, groups)
    assert low < classification_metrics(logits, labels, 4)["auroc"] < high
    several = (torch.rand(60, 3, generator=generator) < 0.3).float()
    several[:5, 1] = torch.nan
    several[:, 2] = 1
    wanted = multilabel_metrics(logits[:, :3], several, list("abc"))["auroc"]
    aurocs = Aurocs.of_logits(logits[:, :3], several, groups)
    assert len(aurocs) == 2 and aurocs.macro == pytest.approx(wanted)
    assert auroc_interval(logits[:, 2:3], several[:, 2:], groups) is None


def test_a_label_of_a_single_image_leaves_the_mean_its_share_open():
    scores, truth = drawn(0, 40, 60)
    rare = (torch.arange(100) == 0).double()[:, None]
    both = Aurocs.of(torch.cat([scores, scores], dim=1), torch.cat([truth, rare], dim=1))
    low, high = both.limits()
    assert low[1] < 0.35 and high[1] > 0.9
    low, high = both.interval()
    assert 0.35 < high - low < 0.7
