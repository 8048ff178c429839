from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vladapt.adapters.head.linear_probe import COARSE, search_c
from vladapt.core.contracts import FeatureSet
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter


@pytest.mark.parametrize("classes, dim", [(2, 16), (5, 16), (5, 6)])
def test_probabilities_are_those_of_logistic_regression_on_raw_features(make_task, classes, dim):
    """With fewer images than channels (4 a class of 16), and with more."""
    task = make_task(classes=classes, dim=dim, noise=2.0)
    adapter = build_adapter("linear-probe", C=0.3)
    adapter.fit(task.support, task.text)
    features, labels = task.support.features.double().numpy(), task.support.labels.numpy()
    model = LogisticRegression(C=0.3, max_iter=1000).fit(features, labels)
    expected = torch.from_numpy(model.predict_proba(task.test.features.double().numpy())).float()
    torch.testing.assert_close(adapter.logits(task.test).softmax(dim=-1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("peak", [-4.3, 0.2, 1.9, 5.5])
def test_search_ends_near_the_peak(peak):
    """Where the score falls off on both sides of one C, 8 bisections of two decades come within a few hundredths."""
    calls = []

    def score(c):
        calls.append(c)
        return -abs(math.log10(c) - peak)

    best, value = search_c(score, 8)
    assert math.log10(best) == pytest.approx(peak, abs=0.02)
    assert value == score(best)
    assert len(calls) - 1 == len(set(calls[:-1]))  # no C is fitted twice


def test_search_follows_the_published_steps():
    """Coarse peak 1: the ends are 0.1 and 10; the better one stays, the other moves to the middle."""
    scores = {1.0: 0.5, 0.1: 0.4, 10.0: 0.6, 10**0.5: 0.6}
    tried = []

    def score(c):
        tried.append(c)
        return next((v for k, v in scores.items() if math.isclose(k, c)), 0.0)

    assert search_c(score, 0) == (1.0, 0.5)
    tried.clear()
    best, _ = search_c(score, 3)
    assert tried[: len(COARSE)] == list(COARSE)
    assert tried[len(COARSE) :] == pytest.approx([0.1, 10.0, 10**0.5])  # then 1 (known) and 10, then 10^0.5 and 10
    assert best == pytest.approx(10**0.5)


def test_a_tie_of_the_coarse_list_keeps_the_largest():
    assert search_c(lambda c: 1.0, 0) == (1e6, 1.0)


def test_raw_norms_that_are_gone_are_said_so(make_task):
    task = make_task()
    unit = replace(task.support, features=task.support.unit, raw_norms=False)
    report = build_adapter("linear-probe", C=1.0).fit(unit, task.text)
    assert "norms are gone" in report.notes[0]
    assert not build_adapter("linear-probe", C=1.0).fit(task.support, task.text).notes


def test_a_class_without_shots_is_never_predicted_and_named(make_task):
    task = make_task(shots=[4, 0, 4, 4, 4])
    adapter = build_adapter("linear-probe")
    report = adapter.fit(task.support, task.text)
    assert (adapter.predict(task.test) != 1).all()
    assert any("class 1" in note for note in report.notes)


def test_one_class_only_is_refused(make_task):
    task = make_task()
    with pytest.raises(CapabilityError, match="two classes"):
        build_adapter("linear-probe").fit(task.support.select(task.support.labels == 0), task.text)


def test_each_label_is_fitted_where_it_is_known(make_multilabel_task):
    task = make_multilabel_task(unknown=0.3)
    adapter = build_adapter("linear-probe", C=0.5)
    adapter.fit(task.support, task.text)
    features, labels = task.support.features.double().numpy(), task.support.labels.numpy()
    for label in range(labels.shape[1]):
        known = ~np.isnan(labels[:, label])
        model = LogisticRegression(C=0.5, max_iter=1000).fit(features[known], labels[known, label] > 0.5)
        np.testing.assert_allclose(adapter.weight[label], model.coef_[0], atol=1e-5)


def test_a_label_that_is_always_there_gets_a_constant_logit(make_multilabel_task):
    task = make_multilabel_task(unknown=0.0)
    labels = task.support.labels.clone()
    labels[:, 0], labels[:, 1] = 1.0, 0.0
    adapter = build_adapter("linear-probe", C=1.0)
    adapter.fit(FeatureSet(task.support.features, labels), task.text)
    logits = adapter.logits(task.test)
    assert (logits[:, 0] == logits[0, 0]).all() and logits[0, 0] > 3 and logits[0, 1] < -3
