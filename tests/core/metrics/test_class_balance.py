"""Weights by which classes count alike, and the choice among settings that score alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight

from vladapt.core.contracts.parts import balancing_offsets, log_priors
from vladapt.core.metrics.classification import best_setting, class_weights, row_weights, val_score

COUNTS = st.lists(st.integers(0, 12), min_size=2, max_size=6).filter(lambda counts: sum(map(bool, counts)) > 1)


@settings(max_examples=40, deadline=None)
@given(COUNTS)
def test_weights_are_those_of_scikit_learn(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    weights = class_weights(labels, len(counts))
    if len({count for count in counts if count}) == 1:
        assert weights is None and row_weights(labels) is None and log_priors(labels, len(counts)) is None
        return
    present = labels.unique().numpy()
    expected = compute_class_weight("balanced", classes=present, y=labels.numpy())
    np.testing.assert_allclose(weights[present].numpy(), expected, rtol=1e-6)
    assert weights.sum() == pytest.approx(expected.sum(), rel=1e-6)  # a class without images has none
    assert float(row_weights(labels).mean()) == pytest.approx(1, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(0, 10**6))
def test_a_balanced_val_score_is_the_mean_recall(counts, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    logits = torch.randn(len(labels), len(counts), generator=torch.Generator().manual_seed(seed))
    answers = logits.argmax(dim=1)
    assert val_score(logits, labels) == pytest.approx(float((answers == labels).double().mean()))
    recalls = [float((answers[labels == c] == c).double().mean()) for c in labels.unique()]
    assert val_score(logits, labels, balanced=True) == pytest.approx(np.mean(recalls), abs=1e-6)
    if set(answers.tolist()) <= set(labels.tolist()):
        assert np.mean(recalls) == pytest.approx(balanced_accuracy_score(labels, answers))


def test_priors_are_shares_and_a_class_without_images_counts_as_the_rarest():
    labels = torch.tensor([0] * 6 + [1] * 2)
    assert torch.allclose(log_priors(labels, 3).exp(), torch.tensor([0.6, 0.2, 0.2]))
    assert log_priors(torch.zeros(4, 3), 3) is None


def test_of_alike_scores_the_middle_of_the_widest_plateau_is_taken():
    scores = np.array([0.9, 0.5, 0.9, 0.9, 0.9, 0.9 - 1e-12, 0.9, 0.2])
    assert best_setting(scores) == (0,) and best_setting(scores, "plateau") == (4,)
    grid = np.zeros((9, 7))
    grid[2:7, 1:6] = 1.0
    assert best_setting(grid, "published") == (2, 1) and best_setting(grid, "plateau") == (4, 3)
    assert best_setting(np.ones((5, 3)), "plateau") == (2, 1)
    assert best_setting(np.array([[0.1, 0.3], [0.2, 0.1]]), "plateau") == (0, 1)


def unequal_logits(counts: tuple[int, ...], behind: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know the classes, those of each class behind by a number."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), len(counts), generator=torch.Generator().manual_seed(seed))
    return 3 * torch.nn.functional.one_hot(labels, len(counts)) + noise - behind, labels


def test_offsets_bring_back_classes_that_fell_behind():
    behind = torch.tensor([4.0, 2.0, 0.0])
    logits, labels = unequal_logits((20, 40, 300), behind)
    offsets = balancing_offsets(logits, labels)
    assert offsets[0] > offsets[1] > offsets[2]
    fresh, truth = unequal_logits((100, 100, 100), behind, seed=1)
    assert val_score(fresh, truth) < 0.7 < 0.9 < val_score(fresh + offsets, truth)


def test_offsets_are_small_where_no_class_fell_behind():
    logits, labels = unequal_logits((20, 40, 300), torch.zeros(3))
    offsets = balancing_offsets(logits, labels)
    assert float(offsets.max() - offsets.min()) < 0.8


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_offsets_have_the_scale_of_the_logits(factor):
    logits, labels = unequal_logits((5, 40, 60), torch.tensor([4.0, 0.0, 0.0]))
    torch.testing.assert_close(balancing_offsets(factor * logits, labels), factor * balancing_offsets(logits, labels))


def test_a_class_without_images_has_the_offset_of_the_rarest():
    logits, labels = unequal_logits((5, 0, 60), torch.tensor([4.0, 4.0, 0.0]))
    offsets = balancing_offsets(logits, labels)
    assert offsets[1] == offsets[0] > offsets[2]
    assert torch.equal(balancing_offsets(logits[:5], labels[:5]), torch.zeros(3))
