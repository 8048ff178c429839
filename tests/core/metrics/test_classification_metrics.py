"""Scores with one label an image: against scikit-learn, and what must hold of any scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from vladapt.core.errors import DataError
from vladapt.core.metrics import classification_metrics, confusion_matrix

NAMES = {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"}


def random_case(seed: int, n: int = 60, classes: int = 4, scale: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=generator)])
    logits = torch.randn(n, classes, generator=generator) * scale
    logits[torch.arange(n), labels] += 1.0
    return logits, labels


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 6))
def test_agrees_with_scikit_learn(seed, classes):
    logits, labels = random_case(seed, classes=classes)
    found = classification_metrics(logits, labels, classes)
    predicted, probs = logits.argmax(1).numpy(), logits.double().softmax(1).numpy()
    truth = labels.numpy()
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(truth, predicted), abs=1e-6)
    assert found["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(truth, predicted), abs=1e-6)
    assert found["macro_f1"] == pytest.approx(peer.f1_score(truth, predicted, average="macro"), abs=1e-6)
    wanted = np.mean([peer.roc_auc_score(truth == c, probs[:, c]) for c in range(classes)])
    assert found["auroc"] == pytest.approx(wanted, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_images_does_not_matter(seed):
    logits, labels = random_case(seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    assert classification_metrics(logits[order], labels[order], 4) == pytest.approx(
        classification_metrics(logits, labels, 4), abs=1e-6
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_classes_does_not_matter(seed):
    logits, labels = random_case(seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    moved = torch.empty(4, dtype=torch.long).scatter_(0, order, torch.arange(4))
    assert classification_metrics(logits[:, order], moved[labels], 4) == pytest.approx(
        classification_metrics(logits, labels, 4), abs=1e-6
    )


def test_a_perfect_and_sure_prediction_scores_one_with_no_calibration_error():
    labels = torch.arange(5).repeat(4)
    found = classification_metrics(torch.nn.functional.one_hot(labels, 5) * 100.0, labels, 5)
    assert found == pytest.approx(dict.fromkeys(NAMES, 1.0) | {"ece": 0.0}, abs=1e-6)
    assert all(type(value) is float for value in found.values())


def test_a_class_without_test_images_is_left_out_of_the_means():
    logits, labels = random_case(3, classes=4)
    wider = torch.cat([logits, torch.full((len(labels), 2), -50.0)], dim=1)
    narrow = classification_metrics(logits, labels, 4)
    assert classification_metrics(wider, labels, 6) == pytest.approx(narrow, abs=1e-5)


def test_calling_an_absent_class_costs_its_image_but_adds_no_zero_to_the_mean():
    logits = torch.eye(3)[[0, 2, 1, 1]]  # the second is called class 2, which has no image
    found = classification_metrics(logits, torch.tensor([0, 0, 1, 1]), 3)
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1.0) / 2)


def test_one_class_alone_has_no_auroc():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = classification_metrics(logits, torch.tensor([0, 0]), 2)
    assert found["auroc"] is None
    assert found["accuracy"] == 0.5


def test_large_logits_keep_their_ranking():
    labels = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[123.0, 100.0], [122.0, 100.0], [121.0, 100.0], [120.0, 100.0]])
    assert logits.softmax(dim=1)[:, 0].unique().tolist() == [1.0]  # what float32 makes of them
    assert classification_metrics(logits, labels, 2)["auroc"] == pytest.approx(1.0)


def test_expected_calibration_error_is_the_gap_between_confidence_and_accuracy():
    logits = torch.tensor([[0.8, 0.2]]).log().repeat(10, 1)
    labels = torch.tensor([0] * 5 + [1] * 5)
    assert classification_metrics(logits, labels, 2)["ece"] == pytest.approx(0.3, abs=1e-5)


def test_the_confusion_matrix_has_truth_in_rows():
    logits = torch.tensor([[5.0, 0, 0], [0, 5.0, 0], [0, 5.0, 0]])
    found = confusion_matrix(logits, torch.tensor([0, 0, 1]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("logits", "labels", "classes", "says"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), 3, "at least one test image"),
        (torch.full((2, 3), float("nan")), torch.tensor([0, 1]), 3, "NaN"),
        (torch.zeros(2, 3), torch.tensor([0, 1, 2]), 3, "labels have shape"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), 3, "3 classes"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), 4, "4 are named"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(logits, labels, classes, says):
    with pytest.raises(DataError, match=says):
        classification_metrics(logits, labels, classes)
