"""Scores with several labels an image, some of them unknown; and the bootstrap interval of their macro AUROC."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from vladapt.core.errors import DataError
from vladapt.core.metrics import multilabel_metrics

NAMES = ["opacity", "effusion", "nodule"]


def random_case(seed: int, n: int = 50, unknown: float = 0.2, signal: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, 3, generator=generator) < 0.4).float()
    labels[0], labels[1] = 0.0, 1.0
    logits = torch.randn(n, 3, generator=generator) * 2 + signal * (labels * 2 - 1)
    hidden = torch.rand(n, 3, generator=generator) < unknown
    hidden[:2] = False
    return logits, labels.masked_fill(hidden, float("nan"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_agrees_with_scikit_learn_on_the_known_labels(seed):
    logits, labels = random_case(seed)
    found = multilabel_metrics(logits, labels, NAMES)
    probs, truth = logits.double().sigmoid().numpy(), labels.numpy()
    known = ~np.isnan(truth)
    columns = [(probs[known[:, c], c], truth[known[:, c], c]) for c in range(3)]
    auroc = [peer.roc_auc_score(t, p) for p, t in columns]
    assert [found[f"auroc/{name}"] for name in NAMES] == pytest.approx(auroc, abs=1e-6)
    assert found["auroc"] == pytest.approx(np.mean(auroc), abs=1e-6)
    assert found["mean_average_precision"] == pytest.approx(
        np.mean([peer.average_precision_score(t, p) for p, t in columns]), abs=1e-6
    )
    assert found["macro_f1"] == pytest.approx(np.mean([peer.f1_score(t, p > 0.5) for p, t in columns]), abs=1e-6)
    assert found["accuracy"] == pytest.approx(((probs > 0.5) == truth)[known].mean(), abs=1e-6)


def test_an_unknown_label_changes_nothing():
    logits, labels = random_case(1)
    louder = logits.masked_fill(labels.isnan(), 40.0)
    assert multilabel_metrics(louder, labels, NAMES) == multilabel_metrics(logits, labels, NAMES)


def test_a_label_with_one_value_has_no_auroc_and_is_left_out_of_the_means():
    logits, labels = random_case(2)
    labels[:, 2] = 0.0
    found = multilabel_metrics(logits, labels, NAMES)
    two = multilabel_metrics(logits[:, :2], labels[:, :2], NAMES[:2])
    assert found["auroc/nodule"] is None
    for name in ("auroc", "mean_average_precision", "macro_f1"):
        assert found[name] == two[name]


def test_without_any_label_to_rank_the_means_are_none():
    found = multilabel_metrics(torch.zeros(4, 2), torch.zeros(4, 2), ["a", "b"])
    assert found["auroc"] is None and found["mean_average_precision"] is None and found["macro_f1"] is None
    assert found["accuracy"] == 1.0  # a probability of 0.5 does not yet say yes


def test_a_perfect_and_sure_prediction_scores_one():
    _, labels = random_case(3, unknown=0.0)
    found = multilabel_metrics((labels * 2 - 1) * 100, labels, NAMES)
    assert found == pytest.approx({**dict.fromkeys(found, 1.0), "ece": 0.0}, abs=1e-6)


def test_calibration_is_that_of_the_probability_of_a_label():
    logits = torch.full((10, 1), 0.3).logit()
    labels = torch.tensor([1.0] * 5 + [0.0] * 5)[:, None]
    assert multilabel_metrics(logits, labels, ["a"])["ece"] == pytest.approx(0.2, abs=1e-5)


def test_no_known_label_is_an_error():
    with pytest.raises(DataError, match="no known label"):
        multilabel_metrics(torch.zeros(3, 2), torch.full((3, 2), float("nan")), ["a", "b"])
