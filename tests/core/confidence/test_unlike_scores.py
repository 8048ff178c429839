"""Scores of images of other things, and how well each tells them: the public code, scikit-learn, and drawn sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import unlike_images
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from vladapt.core.confidence.unlike_scores import (
    FEWEST_FOR_THRESHOLD,
    class_scores,
    false_positive_rate,
    global_and_local,
    local_score,
    separations,
)


@pytest.mark.parametrize("comparison", unlike_images.GROUPS, ids=lambda each: each.pattern)
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


def at_recall(ordinary: np.ndarray, others: np.ndarray) -> float:
    """By scikit-learn's curve."""
    truth = np.r_[np.ones(len(ordinary)), np.zeros(len(others))]
    fpr, recall, _ = roc_curve(truth, np.r_[ordinary, others], drop_intermediate=False)
    fpr, recall = fpr[1:], recall[1:]
    last = int(np.argmax(recall == 1))
    gaps = np.abs(recall[: last + 1] - 0.95)
    return float(fpr[np.flatnonzero(gaps == gaps.min())[-1]])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 40), st.booleans())
def test_measures_are_those_of_scikit_learn(seed, n, m, ties):
    rng = np.random.default_rng(seed)
    ordinary, others = rng.normal(1, 1, n), rng.normal(0, 1, m)
    if ties:
        ordinary, others = ordinary.round(1), others.round(1)
    truth, scores = np.r_[np.ones(n), np.zeros(m)], np.r_[ordinary, others]
    made = separations({"a": torch.tensor(ordinary)}, {"a": torch.tensor(others)})["a"]
    assert made.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert made.aupr == pytest.approx(average_precision_score(truth, scores))
    assert made.fpr == pytest.approx(at_recall(ordinary, others))
    assert made.auroc_interval[0] <= made.auroc <= made.auroc_interval[1]
    assert made.fpr_interval is None or made.fpr_interval[0] <= made.fpr <= made.fpr_interval[1]
    assert (made.fpr_interval is None) == (min(n, m) < FEWEST_FOR_THRESHOLD)


def test_weights_count_rows_as_often():
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4]])
    truth = torch.tensor([True, False, True, True, False, True])
    weights = torch.tensor([[1.0, 2, 1, 3, 1, 0], [1, 1, 1, 1, 1, 1]])
    rates = false_positive_rate(scores, truth, weights, recall=0.75)[:, 0]
    again = scores[[0, 1, 1, 2, 3, 3, 3, 4]], truth[[0, 1, 1, 2, 3, 3, 3, 4]]
    assert rates.tolist() == [
        pytest.approx(float(false_positive_rate(*again, recall=0.75))),
        pytest.approx(float(false_positive_rate(scores, truth, recall=0.75))),
    ]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """True values of unit normal scores that lie 2.5 apart; the images of a patient count as one."""
    generator, truth = torch.Generator().manual_seed(0), {"auroc": 0.9615, "fpr": 0.1963}
    held = dict.fromkeys(truth, 0)
    for _ in range(30):
        own, others = (torch.randn(1, 60, generator=generator) + shift for shift in (2.5, 0))
        made = separations({"a": own[0]}, {"a": others[0]})["a"]
        for name, value in truth.items():
            low, high = getattr(made, f"{name}_interval")
            held[name] += low <= value <= high
    assert all(count >= 26 for count in held.values())
    groups = [f"patient {n // 5}" for n in range(300)]
    one, five = (separations({"a": own[0].repeat_interleave(5)}, {"a": others[0]}, of)["a"] for of in (None, groups))
    assert five.auroc == one.auroc and np.diff(five.auroc_interval) > 1.05 * np.diff(one.auroc_interval)
    assert np.diff(five.fpr_interval) > np.diff(one.fpr_interval)


def test_a_temperature_changes_what_is_ranked_but_for_the_largest_logit():
    generator = torch.Generator().manual_seed(1)
    cosines = 0.3 * torch.randn(200, 6, generator=generator)
    plain, own = class_scores(cosines), class_scores(cosines, 0.01)
    ranks = {name: [each[name].argsort().argsort() for each in (plain, own)] for name in plain}
    changed = {name for name, (one, other) in ranks.items() if not torch.equal(one, other)}
    assert changed == {"mcm", "energy", "entropy", "variance"}
    logits = 100 * cosines.double()
    assert torch.allclose(own["mcm"], logits.softmax(dim=1).amax(dim=1))
    assert torch.allclose(own["energy"], logits.logsumexp(dim=1) / 100)
    assert torch.allclose(own["variance"], torch.from_numpy(logits.softmax(dim=1).numpy().var(axis=1)))


def test_the_local_half_sees_the_one_patch_that_shows_a_class():
    classes, patches = torch.eye(4), torch.full((3, 9, 4), 0.5)
    patches[1, 7] = torch.tensor([0.0, 3, 0, 0])
    local = local_score(patches, 2 * classes)
    assert local[0] == local[2] == pytest.approx(0.25) and local[1] > 0.4
    assert global_and_local(torch.tensor([0.5, 0.5]), local[:2], 0.5).tolist() == pytest.approx(
        [0.5 + 0.125, 0.5 + 0.5 * float(local[1])]
    )
    assert local_score(patches, classes, 0.01)[1] == pytest.approx(1)
